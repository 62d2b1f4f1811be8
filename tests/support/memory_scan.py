# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Searches all memory of the calling process for bytes, without making copies of what it looks for.

The needles arrive by file descriptor straight into a fixed buffer; memory is read in windows into another, once for all
needles. Both are left out of the search. `process_vm_readv` on oneself is allowed in a non-dumpable process too.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MAX_NEEDLES = 1 << 16
"""Bytes of all needles of a search."""
_WINDOW = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)
_libc.memmem.restype = ctypes.c_void_p
_libc.memmem.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
_libc.memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Hits(NamedTuple):
    """How often a needle was found."""

    found: int
    outside: int
    """Of these, in what core dumps or children would get: where keys must not be."""


_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [ctypes.c_int, ctypes.POINTER(_Vector), ctypes.c_ulong, ctypes.POINTER(_Vector),
                                   ctypes.c_ulong, ctypes.c_ulong]  # fmt: skip
_needles = ctypes.create_string_buffer(MAX_NEEDLES)
_window = ctypes.create_string_buffer(_WINDOW)


def receive_needles(fd: int, size: int) -> None:
    """Fill the needle buffer with `size` bytes from a descriptor."""
    view = memoryview(_needles).cast("B")
    done = 0
    while done < size:
        got = os.readv(fd, [view[done:size]])
        if got == 0:
            raise EOFError("the needles ended early")
        done += got


def forget_needles() -> None:
    """Zero the needles and the last window."""
    ctypes.memset(_needles, 0, MAX_NEEDLES)
    ctypes.memset(_window, 0, _WINDOW)


def count(sizes: Sequence[int]) -> list[Hits]:
    """Where in readable memory the needles are, which lie one behind the other in the needle buffer."""
    base = ctypes.addressof(_needles)
    needles = [(base + end - size, size) for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
    found, outside = ([0] * len(needles) for _ in range(2))
    for start, end, guarded in _regions():
        for number, hits in enumerate(_count_region(start, end, needles)):
            found[number] += hits
            outside[number] += 0 if guarded else hits
    return [Hits(*both) for both in zip(found, outside, strict=True)]


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


def _count_region(start: int, end: int, needles: Sequence[tuple[int, int]]) -> list[int]:
    hits = [0] * len(needles)
    overlap = max(size for _, size in needles) - 1  # a match may straddle two windows
    at, fresh = start, start
    while fresh < end:
        length = min(_WINDOW, end - at)
        local = _Vector(ctypes.addressof(_window), length)
        remote = _Vector(at, length)
        got = _libc.process_vm_readv(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if got <= fresh - at:
            at = fresh = at + length
            continue
        for number, (needle, size) in enumerate(() if _is_of_one_byte(got) else needles):
            hits[number] += _count_window(at, got, fresh, needle, size)
        fresh = at + got
        at = max(start, fresh - overlap)
    return hits


def _is_of_one_byte(length: int) -> bool:
    """Memory that nobody has written is zero; no needle is of one byte over and over."""
    base = ctypes.addressof(_window)
    return bool(_libc.memcmp(base, base + 1, length - 1) == 0)


def _count_window(address: int, length: int, fresh: int, needle: int, size: int) -> int:
    """Matches in the window, which shows memory from an address on, that end in its fresh part."""
    base = ctypes.addressof(_window)
    position, hits = base + max(0, fresh - address - size + 1), 0
    while found := _libc.memmem(position, base + length - position, needle, size):
        hits += not _is_own(address + found - base, size)
        position = found + 1
    return hits


def _is_own(where: int, size: int) -> bool:
    return any(
        ctypes.addressof(buffer) - size < where < ctypes.addressof(buffer) + len(buffer)
        for buffer in (_needles, _window)
    )
