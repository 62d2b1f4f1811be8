# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the response files of NIST's algorithm validation program, as packaged in `cryptography_vectors`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors

ROOT = Path(cryptography_vectors.__file__).parent


def cases(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Section heading and fields of every case; a case ends at a blank line or where its first field comes again."""
    section = ""
    fields: dict[str, str] = {}
    for line in (ROOT / path).read_text(encoding="latin-1").splitlines():
        text = line.strip()
        if text.startswith("#"):
            continue
        if text.startswith("["):
            section = text.strip("[]")
            continue
        name, equals, value = text.partition("=")
        name, value = name.strip(), value.strip()
        if fields and (not text or name == next(iter(fields))):
            yield section, fields
            fields = {}
        if text:
            fields[name] = value if equals else "present"
    if fields:
        yield section, fields
