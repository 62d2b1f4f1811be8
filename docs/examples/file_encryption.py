#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Encrypt a file under a key in the HSM, and decrypt it.

    file_encryption.py encrypt LABEL PLAIN SEALED
    file_encryption.py decrypt LABEL SEALED PLAIN

A store is needed: ihsm init. `encrypt` makes the AES-256-GCM key LABEL unless there is one. `decrypt` finds the version
of the key that the file needs, so that files outlive `rotate`. Files may be of any size: they pass through in chunks,
each authenticated together with its place (STREAM), by as many commands at a time as the device takes. The result gets
its name when it is complete: a file that was cut, changed or made with another key leaves nothing behind.
"""

import os
import sys
import tempfile
from pathlib import Path

from ihsm import Hsm
from ihsm.api.files import decrypt_stream, encrypt_stream
from ihsm.errors import IhsmError


def versions(hsm: Hsm, label: str) -> list:
    """All versions of a key, the newest first."""
    return [hsm[f"{label}@{version.version}"] for version in reversed(hsm.store.key(label).versions)]


if len(sys.argv) != 5 or sys.argv[1] not in ("encrypt", "decrypt"):
    sys.exit(__doc__)
action, label, source_path, target_path = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
try:
    with (
        Hsm.open() as hsm,
        source_path.open("rb") as source,
        tempfile.TemporaryDirectory(dir=target_path.parent) as folder,
    ):
        with (Path(folder) / "result").open("wb") as result:
            if action == "encrypt":
                key = hsm[label] if label in hsm else hsm.generate(label, "aes256-gcm")
                size = encrypt_stream(key, source, result)
            else:
                size = decrypt_stream(versions(hsm, label), source, result)
        os.replace(result.name, target_path)
    print(f"{action}ed {size} bytes")
except (IhsmError, OSError) as error:
    sys.exit(f"{action}: {type(error).__name__}: {error}")
