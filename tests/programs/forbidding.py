# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run a command that may not call mount, unshare and their like, nor ptrace, as in many a container.

    forbidding.py PROGRAM [ARGUMENTS]

It and all its children get EPERM for them, by a filter of seccomp that none of them can take off.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Final

FORBIDDEN: Final = {
    "ptrace": 101, "pivot_root": 155, "chroot": 161, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
}  # fmt: skip
"""Numbers of x86-64."""
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2
LOAD_WORD: Final = 0x20
JUMP_IF_EQUAL: Final = 0x15
RETURN: Final = 0x06
ALLOW: Final = 0x7FFF0000
ERRNO: Final = 0x00050000
NUMBER_AT: Final = 0
"""Offset of the call's number in `struct seccomp_data`."""


class Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """`struct sock_filter`."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def forbid() -> None:
    """Install the filter."""
    checks = b"".join(
        instruction(JUMP_IF_EQUAL, number, 0, 1) + instruction(RETURN, ERRNO | errno.EPERM)
        for number in FORBIDDEN.values()
    )
    text = instruction(LOAD_WORD, NUMBER_AT) + checks + instruction(RETURN, ALLOW)
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(text) // 8, text)
    unused = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), unused, unused, unused) or libc.prctl(
        PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program), unused, unused
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
