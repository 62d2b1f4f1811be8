# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which files a thread, and those that it will start, may open from now on (landlock(7), linux/landlock.h)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path
from typing import Final

from ihsm_abi import seccomp
from ihsm_abi.libc import LIBC, checked

_SYS_CREATE_RULESET: Final = 444
_SYS_ADD_RULE: Final = 445
_SYS_RESTRICT_SELF: Final = 446
"""The same on all architectures."""
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_PATH_BENEATH: Final = struct.Struct("=Qi")
"""struct landlock_path_beneath_attr: allowed_access, parent_fd."""
_NETWORK: Final = 0b11
"""TCP, to bind and to connect."""
_SCOPED: Final = 0b11
"""Abstract Unix sockets of others, and signals to others."""
_FIRST_WITH_NETWORK: Final = 4
_FIRST_WITH_SCOPES: Final = 6
_RULESET: Final = struct.Struct("=QQQ")
"""struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped; zeros for kernels that know less."""


class Access(IntFlag):
    """What is done with files below a folder."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_SINCE: Final = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5}
"""The version from which on these are known; the others from the first."""
_OF_FILES: Final = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV


def version() -> int:
    """Version of the kernel's interface, 0 where there is none."""
    return max(0, _version())


def _version() -> int:
    return int(LIBC.syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION))


def known(abi: int) -> Access:
    """All that a version of the interface knows."""
    return Access(sum(access for access in Access if abi >= _SINCE.get(access, 1)))


def restrict(allowed: Mapping[Path, Access]) -> int:
    """Nothing but `allowed` below these folders, no TCP, no signals to others, no processes of others looked into.

    A path may be a file's, and one that does not exist is left out. Gives the version of the interface.

    Raises:
        OSError: the kernel has none, or this process may not use it.
    """
    abi = checked(_version())
    handled = known(abi)
    attributes = _RULESET.pack(
        handled, _NETWORK if abi >= _FIRST_WITH_NETWORK else 0, _SCOPED if abi >= _FIRST_WITH_SCOPES else 0
    )
    ruleset = checked(LIBC.syscall(_SYS_CREATE_RULESET, attributes, ctypes.c_size_t(_RULESET.size), 0))
    try:
        for path, access in allowed.items():
            _allow(ruleset, path, access & handled)
        seccomp.forbid_new_privileges()
        checked(LIBC.syscall(_SYS_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return abi


def _allow(ruleset: int, path: Path, access: Access) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            access &= _OF_FILES
        rule = _PATH_BENEATH.pack(access, folder)
        checked(LIBC.syscall(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(folder)
