# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Filters of system calls (seccomp(2), linux/seccomp.h) as programs of classic BPF (linux/bpf_common.h), for x86-64."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Final

from ihsm_abi.libc import LIBC, checked

AUDIT_ARCH_X86_64: Final = 0xC000003E
"""linux/audit.h."""
X32_SYSCALL_BIT: Final = 0x40000000
RET_ALLOW: Final = 0x7FFF0000
RET_ERRNO: Final = 0x00050000
"""The low half is the error number."""
RET_USER_NOTIF: Final = 0x7FC00000
FLAG_TSYNC: Final = 1 << 0
"""All threads of the process, not the calling one alone."""
FLAG_NEW_LISTENER: Final = 1 << 3
FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5
"""Linux 5.19. Once a call is taken, only what kills the program ends its wait: without it a timer's signal would, and
the answer of a command that is carried out would be lost."""

LOAD_WORD: Final = 0x20
AND: Final = 0x54
JUMP_EQUAL: Final = 0x15
JUMP_ANY_BIT: Final = 0x45
JUMP_GREATER_OR_EQUAL: Final = 0x35
RETURN: Final = 0x06
DATA_NR: Final = 0
"""Offsets in struct seccomp_data."""
DATA_ARCH: Final = 4
_DATA_ARGUMENTS: Final = 16
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_GET_NO_NEW_PRIVS: Final = 39
_SYS_SECCOMP: Final = 317
_SET_MODE_FILTER: Final = 1
_INSTRUCTION: Final = struct.Struct("=HBBI")

Line = tuple[int, int | str, int | str, int]
"""Code, where to go on if true and if false (lines to skip, or a label), value."""


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def low_word(argument: int) -> int:
    """Offset of the low half of a call's argument, from 0."""
    return _DATA_ARGUMENTS + 8 * argument


def assemble(parts: Sequence[Line | str]) -> bytes:
    """The program of some lines, before which there may be labels.

    Raises:
        struct.error: a jump is longer than the 255 lines that a filter can skip.
    """
    lines: list[Line] = []
    labels: dict[str, int] = {}
    for part in parts:
        if isinstance(part, str):
            labels[part] = len(lines)
        else:
            lines.append(part)

    def offset(at: int, target: int | str) -> int:
        return labels[target] - at - 1 if isinstance(target, str) else target

    return b"".join(
        _INSTRUCTION.pack(code, offset(at, true), offset(at, false), value)
        for at, (code, true, false, value) in enumerate(lines)
    )


def forbid_new_privileges() -> None:
    """No program that this thread, or one of its children, executes gains any (prctl(2)); raises OSError."""
    checked(LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def has_no_new_privileges() -> bool:
    """Whether `forbid_new_privileges` was called for this thread, or for one that started it."""
    return bool(LIBC.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1)


def install(program: bytes, flags: int) -> int:
    """Put the calling thread, and all that it will start, under a filter; what the system call gives.

    Raises:
        OSError: EINVAL, the kernel has not one of the flags; EBUSY, there is a listener already, above us; ESRCH, a
            thread has another filter; EPERM or EACCES, it is not allowed here; ENOSYS, the kernel has no seccomp.
    """
    forbid_new_privileges()
    argument = _Program(len(program) // _INSTRUCTION.size, program)
    return checked(LIBC.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(argument)))
