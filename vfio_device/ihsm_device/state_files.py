# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a state directory, by name; what is in them: `hsm/device/state.py`."""

from __future__ import annotations

import re
from typing import Final

LOCK: Final = "lock"
SECRET: Final = "device.secret"
DEVICE: Final = "device.json"
TEMPORARY: Final = ".new"
"""Behind the name of a file: the next one, until it takes its place. The key store does the same (native/keystore)."""
_PARTITION: Final = re.compile(r"partition-(0|[1-9][0-9]*)\.json")


def partition(index: int) -> str:
    """The file of function `index`."""
    return f"partition-{index}.json"


def partition_index(name: str) -> int | None:
    """Whose file it is; None for any other name."""
    match = _PARTITION.fullmatch(name)
    return int(match[1]) if match else None


def is_one(name: str) -> bool:
    """Whether a device makes files of this name in its state directory."""
    name = name.removesuffix(TEMPORARY)
    return name in (LOCK, SECRET, DEVICE) or partition_index(name) is not None
