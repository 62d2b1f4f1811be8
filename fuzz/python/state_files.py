# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files of the state directory: read as a record, or refused as damaged.

An input is a file as it stands, or, behind a zero byte, JSON without its HMAC, which the harness puts in, so that what
is behind it is reached.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from harness import instrumented, main

with instrumented():
    from ihsm_abi import json_text
    from ihsm_device.hsm.device.records import DeviceRecord, PartitionRecord, RecordFile, StateError

FOLDER = Path(tempfile.mkdtemp(prefix="ihsm-fuzz-"))
FILES: tuple[Any, ...] = tuple(
    RecordFile(FOLDER / kind.__name__, kind, lambda data: hashlib.sha384(data).digest())
    for kind in (DeviceRecord, PartitionRecord)
)


def sealed(text: bytes, name: str) -> bytes:
    """The file that has this object; as it stands if it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        plain = json.loads(text)
        if isinstance(plain, dict):
            plain.pop("hmac", None)
            tag = hashlib.sha384(name.encode() + b"\0" + json_text.dump(plain).encode()).hexdigest()
            return json_text.dump(plain | {"hmac": tag}, indent=1).encode() + b"\n"
    return text


def one_input(data: bytes) -> None:
    """One file, as each kind of record."""
    for file in FILES:
        content = sealed(data[1:], file.path.name) if data[:1] == b"\0" else data
        descriptor = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        with contextlib.suppress(StateError):
            file.read_unprotected()
        try:
            record = file.read()
        except StateError as error:
            assert str(file.path) in str(error)  # noqa: PT017  (no test of pytest)
            assert "\n" not in str(error)  # noqa: PT017  (no test of pytest)
            continue
        file.write(record)
        assert file.path.read_bytes() == content
        assert file.read() == record


if __name__ == "__main__":
    main(one_input)
