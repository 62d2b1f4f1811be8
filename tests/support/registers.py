# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Registers of the threads of another process, vector registers too, as a core dump or a debugger has them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_SEIZE, _INTERRUPT, _GET_SET, _DETACH = 0x4206, 0x4207, 0x4204, 17  # linux/ptrace.h
_SETS: Final = (1, 0x202)
"""NT_PRSTATUS and NT_X86_XSTATE (linux/elf.h)."""
_ALL: Final = 0x40000000
_ROOM: Final = 1 << 16


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def of_threads(pid: int) -> list[bytes]:
    """What the registers of each thread hold, which stands still for that moment; the caller may trace the process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        thread = int(task.name)
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            _trace(_SEIZE, thread)
            try:
                _trace(_INTERRUPT, thread)
                os.waitpid(thread, _ALL)
                found += [_register_set(thread, number) for number in _SETS]
            finally:
                _trace(_DETACH, thread)
    return found


def _register_set(thread: int, number: int) -> bytes:
    room = ctypes.create_string_buffer(_ROOM)
    vector = _Vector(ctypes.addressof(room), _ROOM)
    _trace(_GET_SET, thread, number, ctypes.addressof(vector))
    return room.raw[: vector.size]


def _trace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, thread, address, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
