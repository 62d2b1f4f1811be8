# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of served functions lie, so that `ihsm serve` and discovery agree."""

import os
from pathlib import Path
from typing import Final

SOCKET_SUFFIX: Final = ".sock"
"""Suffix of a vfio-user socket in the default folder; its control socket appends `ihsm_abi.control.SUFFIX`."""
MAX_PATH_BYTES: Final = 107
"""Longest path of a Unix socket: sun_path holds 108 bytes with its NUL."""


def default_folder() -> Path:
    """`$XDG_RUNTIME_DIR/ihsm`, without that variable `/tmp/ihsm-UID`; whoever creates it gives it mode 0700."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime, "ihsm") if runtime else Path(f"/tmp/ihsm-{os.getuid()}")


def default_path(number: int) -> Path:
    """Socket number `number` (from 0) of the default folder."""
    return default_folder() / f"{number}{SOCKET_SUFFIX}"


def numbered_path(first: Path, number: int) -> Path:
    """Socket of function `number` when the first one was named: PATH, PATH.1, PATH.2, ..."""
    return first if number == 0 else first.with_name(f"{first.name}.{number}")
