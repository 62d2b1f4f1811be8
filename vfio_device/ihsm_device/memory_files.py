# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What files of clients are, found out without asking their file systems, which may never answer."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)


def _mounted_type(fd: int) -> str | None:
    """Type of the file system that an open file belongs to, None if it is not mounted here (proc(5), mountinfo)."""
    mount = _MOUNT_ID.search(Path(f"/proc/self/fdinfo/{fd}").read_bytes())
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        if mount and before.split(b" ", 1)[0] == mount[1]:
            return os.fsdecode(after.split(b" ", 1)[0])
    return None


def file_system(fd: int, device: tuple[int, int]) -> str:
    """Name of the file system of an open file whose device number is `device`, and the file's path, for people."""
    major, minor = device
    kind = _mounted_type(fd)
    if kind is None and Path(f"/sys/class/bdi/{major}:{minor}-fuse").exists():
        kind = "fuse"  # mounted elsewhere: of another mount namespace
    path = os.readlink(f"/proc/self/fd/{fd}")
    return f"{kind or f'a file system that is not mounted here, device {major}:{minor},'} ({path!r})"
