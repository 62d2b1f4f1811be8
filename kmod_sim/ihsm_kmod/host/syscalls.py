# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Linux's system calls on x86-64, those that are looked at: numbers, arguments, and structures that they fill.

Sources: asm/unistd_64.h, asm/stat.h, linux/stat.h, linux/openat2.h, linux/fcntl.h.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from typing import Final

from ihsm_kmod.kernel.clock import SECOND_NS

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_NO_AUTOMOUNT: Final = 0x800
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_SYNC_TYPE: Final = 0x6000
STAT_FLAGS: Final = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE
"""Those that fstatat(2) or statx(2) take."""
IOCTL_TYPES: Final = b"AB"
"""Bits 8 to 15 of the numbers of the driver's ioctls (spec 02 A.4)."""


class Sys(IntEnum):
    """Calls that are taken from a program."""

    OPEN = 2
    STAT = 4
    FSTAT = 5
    LSTAT = 6
    IOCTL = 16
    ACCESS = 21
    READLINK = 89
    GETXATTR = 191
    LGETXATTR = 192
    LISTXATTR = 194
    LLISTXATTR = 195
    OPENAT = 257
    NEWFSTATAT = 262
    READLINKAT = 267
    FACCESSAT = 269
    STATX = 332
    OPENAT2 = 437
    FACCESSAT2 = 439


STAT: Final = struct.Struct("=QQQIIIxxxxQqqqqQqQqQ24x")
"""struct stat: dev, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks; atime, mtime, ctime with nanoseconds."""
STATX: Final = struct.Struct("=IIQIIIHxxQQQQqIxxxxqIxxxxqIxxxxqIxxxxIIIIQ104x")
"""struct statx: mask, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, attributes_mask; atime, btime,
ctime and mtime, each with nanoseconds; rdev and dev, each as major and minor number; mnt_id."""
STATX_BASIC_STATS: Final = 0x7FF
OPEN_HOW: Final = struct.Struct("=QQQ")
"""struct open_how: flags, mode, resolve."""
BLOCK_BYTES: Final = 512
"""Unit of st_blocks."""


def pack_stat(found: os.stat_result) -> bytes:
    """The structure that stat(2) fills."""
    times = (part for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns) for part in divmod(ns, SECOND_NS))
    return STAT.pack(
        found.st_dev, found.st_ino, found.st_nlink, found.st_mode, found.st_uid, found.st_gid, found.st_rdev,
        found.st_size, found.st_blksize, found.st_blocks, *times,
    )  # fmt: skip


def pack_statx(found: os.stat_result) -> bytes:
    """The structure that statx(2) fills, with what stat(2) tells; nobody knows when a file of /sys was made."""
    atime, mtime, ctime = (divmod(ns, SECOND_NS) for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns))
    return STATX.pack(
        STATX_BASIC_STATS, found.st_blksize, 0, found.st_nlink, found.st_uid, found.st_gid, found.st_mode,
        found.st_ino, found.st_size, found.st_blocks, 0, *atime, 0, 0, *ctime, *mtime,
        os.major(found.st_rdev), os.minor(found.st_rdev), os.major(found.st_dev), os.minor(found.st_dev), 0,
    )  # fmt: skip
