# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Searches all memory of the calling process for bytes, without making copies of what it looks for.

The needle arrives by file descriptor straight into a fixed buffer; memory is read in windows into another. Both are
left out of the search. `process_vm_readv` on oneself is allowed in a non-dumpable process too.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

MAX_NEEDLE = 256
_WINDOW = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.memmem.restype = ctypes.c_void_p
_libc.memmem.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [ctypes.c_int, ctypes.POINTER(_Vector), ctypes.c_ulong, ctypes.POINTER(_Vector),
                                   ctypes.c_ulong, ctypes.c_ulong]  # fmt: skip
_needle = ctypes.create_string_buffer(MAX_NEEDLE)
_window = ctypes.create_string_buffer(_WINDOW)


def receive_needle(fd: int, size: int) -> None:
    """Fill the needle buffer with `size` bytes from a descriptor."""
    view = memoryview(_needle).cast("B")
    done = 0
    while done < size:
        got = os.readv(fd, [view[done:size]])
        if got == 0:
            raise EOFError("the needle ended early")
        done += got


def forget_needle() -> None:
    """Zero the needle and the last window."""
    ctypes.memset(_needle, 0, MAX_NEEDLE)
    ctypes.memset(_window, 0, _WINDOW)


def count(size: int) -> tuple[int, int]:
    """How often the first `size` bytes of the needle buffer occur in readable memory, the two buffers excepted.

    In all, and of these outside of what neither core dumps nor children get: where keys must not be.
    """
    own = [(ctypes.addressof(buffer), len(buffer)) for buffer in (_needle, _window)]
    found = [(_count_region(start, end, size, own), guarded) for start, end, guarded in _regions()]
    return sum(hits for hits, _ in found), sum(hits for hits, guarded in found if not guarded)


def _regions() -> list[tuple[int, int, bool]]:
    """Begin and end of what can be read, and whether it is left out of core dumps and children."""
    regions: list[tuple[int, int, bool]] = []
    readable = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) (r?)", line):
            start, end = int(found[1], 16), int(found[2], 16)
            readable = bool(found[3]) and "[vvar" not in line and "[vsyscall]" not in line
        elif readable and line.startswith("VmFlags:"):
            regions.append((start, end, {"dd", "dc"} <= set(line.split())))
    return regions


def _count_region(start: int, end: int, size: int, own: list[tuple[int, int]]) -> int:
    hits = 0
    at = start
    while at < end:
        length = min(_WINDOW, end - at)
        local = _Vector(ctypes.addressof(_window), length)
        remote = _Vector(at, length)
        got = _libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if got <= 0:
            at += length
            continue
        hits += _count_window(at, got, size, own)
        if at + got >= end or got < size:
            at += got
        else:
            at += got - size + 1  # a match may straddle two windows
    return hits


def _count_window(address: int, length: int, size: int, own: list[tuple[int, int]]) -> int:
    base = ctypes.addressof(_window)
    position, hits = base, 0
    while found := _libc.memmem(position, base + length - position, ctypes.addressof(_needle), size):
        where = address + found - base
        if not any(start - size < where < start + extent for start, extent in own):
            hits += 1
        position = found + 1
    return hits
