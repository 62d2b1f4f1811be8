# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of this process for an ioctl to read and write: neighbouring pages, each with its own protection."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

PAGE: Final = mmap.PAGESIZE
NO_ADDRESS: Final = 1 << 63
"""No program can have memory there: access_ok() refuses it."""
GONE, READ_ONLY, USABLE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class UserPages:
    """Pages for as long as the object lives; a program could not touch those that are GONE, an ioctl gets EFAULT."""

    def __init__(self, *protections: int) -> None:
        """One page for each protection, all zero."""
        self._pages = mmap.mmap(-1, PAGE * len(protections), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._anchor = ctypes.c_char.from_buffer(self._pages)
        self.address = ctypes.addressof(self._anchor)
        self._protections = protections
        self.protect()

    def protect(self) -> None:
        """Give each page its protection."""
        self._set(self._protections)

    def put(self, offset: int, data: bytes) -> int:
        """Write in spite of the protection; returns the address."""
        self._set([USABLE] * len(self._protections))
        ctypes.memmove(self.address + offset, data, len(data))
        self.protect()
        return self.address + offset

    def get(self, offset: int, size: int) -> bytes:
        """Read in spite of the protection."""
        self._set([USABLE] * len(self._protections))
        data = ctypes.string_at(self.address + offset, size)
        self.protect()
        return data

    def _set(self, protections: list[int] | tuple[int, ...]) -> None:
        for index, protection in enumerate(protections):
            assert _LIBC.mprotect(self.address + index * PAGE, PAGE, protection) == 0
