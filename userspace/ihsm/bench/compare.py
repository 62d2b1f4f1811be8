# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Two result documents side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ihsm.bench.results import FORMAT
from ihsm.errors import IhsmError

NOTABLE: Final = 0.1
"""Relative change that is pointed out."""


class CompareError(IhsmError):
    """The file is no result document of this format."""

    exit_code = 2


def load(path: Path) -> dict[str, Any]:
    """Read a document written with --json.

    Raises:
        CompareError: it is none, or of another format.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CompareError(f"{path}: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CompareError(f"{path}: no result document of format {FORMAT}")
    return document


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Rows of id, old value, new value, change, and whether that is better or worse; only ids that both have."""
    before = {record["id"]: record for record in old["results"]}
    rows = []
    for record in new["results"]:
        earlier = before.get(record["id"])
        if earlier is None or earlier["unit"] != record["unit"] or not earlier["value"]:
            continue
        change = record["value"] / earlier["value"] - 1
        more_is_better = record["unit"] == "1/s"
        verdict = "" if abs(change) < NOTABLE else "better" if (change > 0) == more_is_better else "worse"
        unit = record["unit"]
        rows.append(
            (record["id"], f"{earlier['value']:.4g} {unit}", f"{record['value']:.4g} {unit}", f"{change:+.1%}", verdict)
        )
    return rows
