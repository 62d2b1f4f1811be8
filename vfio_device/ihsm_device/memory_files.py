# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What files of clients are, found out without asking their file systems, which may never answer."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

BDI: Final = Path("/sys/class/bdi")
"""What the kernel shows of the writeback of each file system."""
_MOUNT_ID: Final = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)


def _mounted_type(fd: int) -> str | None:
    """Type of the file system that an open file belongs to, None if it is not mounted here (proc(5), mountinfo)."""
    mount = _MOUNT_ID.search(Path(f"/proc/self/fdinfo/{fd}").read_bytes())
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        if mount and before.split(b" ", 1)[0] == mount[1]:
            return os.fsdecode(after.split(b" ", 1)[0])
    return None


def _kind_elsewhere(major: int, minor: int) -> str | None:
    """Type of a file system of another mount namespace, by what the kernel shows of its writeback; None: unknown."""
    device = BDI / f"{major}:{minor}"
    if major != 0 or not device.exists():
        return None
    # Of those without a block device only FUSE and NFS are named so, and FUSE may use a hundredth of the cache.
    return "fuse" if (device / "max_ratio").read_text().strip() == "1" else "nfs"


def file_system(fd: int, device: tuple[int, int]) -> str:
    """Name of the file system of an open file whose device number is `device`, and the file's path, for people."""
    major, minor = device
    kind = _mounted_type(fd)
    kind = kind or _kind_elsewhere(major, minor)
    path = os.readlink(f"/proc/self/fd/{fd}")
    return f"{kind or f'a file system that is not mounted here, device {major}:{minor},'} ({path!r})"
