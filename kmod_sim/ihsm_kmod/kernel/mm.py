# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of processes (linux/uaccess.h, linux/mm.h), where every pointer that a program gives may be wrong."""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ihsm_kmod.kernel.address_space import AddressSpace
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import might_sleep
from ihsm_kmod.kernel.task import current

PAGE_SIZE: Final = 4096
PAGE_MASK: Final = ~(PAGE_SIZE - 1)
TASK_SIZE: Final = 0x7FFF_FFFF_F000
"""End of a program's addresses on x86-64: what lies above is the kernel's, or no address at all."""


Piece = tuple[int, int]
"""Address and length of a stretch of memory within one page."""


class ProcessMemory:
    """Memory of a process of this machine, our own among them, as the system's process_vm_readv(2) reaches it.

    A wrong pointer gives fewer bytes than were asked for, and no signal.
    """

    def __init__(self, pid: int) -> None:
        """`pid` is the process, which must be one that we might trace."""
        self.pid = pid

    def read(self, address: int, size: int) -> bytes:
        """Bytes up to the first page that cannot be read."""
        pieces = _pieces(address, size)
        return self._get(pieces) or self._get_otherwise(pieces)

    def write(self, address: int, data: bytes) -> int:
        """How many bytes could be written, up to the first page that refuses."""
        pieces = _pieces(address, len(data))
        return self._put(pieces, data) or self._put_otherwise(pieces, data)

    def accessible_bytes(self, address: int, size: int, write: bool) -> int:
        """How many bytes from there on can be read, and with `write` lie in mappings that allow to write.

        Reading finds what a mapping does not say: the part of a file's mapping that lies behind the end of the file.
        """
        pieces = _pieces(address, size)
        firsts = [(start, 1) for start, _ in pieces]
        there = len(self._get(firsts) or self._get_otherwise(firsts))
        accessible = sum(length for _, length in pieces[:there])
        return self._writable_bytes(address, accessible) if write else accessible

    def _get(self, pieces: Sequence[Piece]) -> bytes:
        """Bytes of the pieces up to one that is not there."""
        if len(pieces) == 1:
            scratch = _SCRATCH
            return scratch.view[: scratch.transfer(_READV, self.pid, *pieces[0])].tobytes()
        buffer = bytearray(sum(length for _, length in pieces))
        return bytes(buffer[: _transfer(_READV, self.pid, buffer, pieces)])

    def _put(self, pieces: Sequence[Piece], data: bytes) -> int:
        """Write to the pieces up to one that refuses; how many bytes that were."""
        if len(pieces) == 1:
            _SCRATCH.view[: len(data)] = data
            return _SCRATCH.transfer(_WRITEV, self.pid, *pieces[0])
        return _transfer(_WRITEV, self.pid, bytearray(data), pieces)

    def _get_otherwise(self, pieces: Sequence[Piece]) -> bytes:
        """The same where not a byte came: there may be another way to the process."""
        return b""

    def _put_otherwise(self, pieces: Sequence[Piece], data: bytes) -> int:
        """The same where not a byte could be written."""
        return 0

    def _writable_bytes(self, address: int, size: int) -> int:
        """How many bytes from there on lie in mappings that allow to write."""
        end, reached = address + size, address
        for line in self._maps().splitlines():
            span, flags = line.split(b" ", 2)[:2]
            low, high = (int(part, 16) for part in span.split(b"-"))
            if low <= reached < high and flags[1:2] == b"w":
                reached = high
            if reached >= end:
                return size
        return reached - address

    def _maps(self) -> bytes:
        """What /proc says of the process's mappings; nothing once it has ended."""
        try:
            with open(f"/proc/{self.pid}/maps", "rb") as maps:
                return maps.read()
        except OSError:
            return b""


class _IoVec(ctypes.Structure):
    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_READV: Final = _LIBC.process_vm_readv
_WRITEV: Final = _LIBC.process_vm_writev
for _call in (_READV, _WRITEV):
    # No argtypes: to convert arguments to them takes as long as the call itself. All are made as what C has.
    _call.restype = ctypes.c_ssize_t
_ONE: Final = ctypes.c_ulong(1)
_NO_FLAGS: Final = ctypes.c_ulong(0)


class _Scratch(threading.local):
    """One transfer's arguments: a small one costs less than making them."""

    def __init__(self) -> None:
        self.buffer = bytearray(PAGE_SIZE)
        self.view = memoryview(self.buffer)
        self.memory = (ctypes.c_char * PAGE_SIZE).from_buffer(self.buffer)
        self.local = _IoVec(ctypes.addressof(self.memory), 0)
        self.remote = _IoVec()
        self.local_address, self.remote_address = ctypes.byref(self.local), ctypes.byref(self.remote)

    def transfer(self, call: ctypes._FuncPointer, pid: int, address: int, size: int) -> int:
        """Copy between `buffer` and a stretch of a process within one page; how many bytes were copied."""
        self.local.iov_len = self.remote.iov_len = size
        self.remote.iov_base = address
        copied: int = call(pid, self.local_address, _ONE, self.remote_address, _ONE, _NO_FLAGS)
        return max(copied, 0)


_SCRATCH: Final = _Scratch()
_IOV_MAX: Final = 1024
"""Pieces that one call takes (linux/uio.h, UIO_MAXIOV)."""


def _transfer(call: ctypes._FuncPointer, pid: int, buffer: bytearray, pieces: Sequence[Piece]) -> int:
    """Copy between `buffer` and pieces of a process; how many bytes were copied, up to a piece that is not there."""
    if not buffer:
        return 0
    memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    base, done = ctypes.addressof(memory), 0
    for first in range(0, len(pieces), _IOV_MAX):
        some = pieces[first : first + _IOV_MAX]
        wanted = sum(length for _, length in some)
        remote = (_IoVec * len(some))(*(_IoVec(*piece) for piece in some))
        local = _IoVec(base + done, wanted)
        copied = call(pid, ctypes.byref(local), _ONE, ctypes.byref(remote), ctypes.c_ulong(len(some)), _NO_FLAGS)
        done += max(copied, 0)
        if copied < wanted:
            break
    return done


def _pieces(address: int, size: int) -> list[Piece]:
    """A stretch of memory, page by page."""
    pieces, end = [], address + size
    if 0 < size <= PAGE_SIZE - (address & ~PAGE_MASK):
        return [(address, size)]
    while address < end:
        length = min((address & PAGE_MASK) + PAGE_SIZE, end) - address
        pieces.append((address, length))
        address += length
    return pieces


def _mm() -> AddressSpace:
    """Memory of the process that made this system call; a thread of the kernel has none, and its pointers fault."""
    mm = current().mm
    if mm is None:
        raise Errno(errno.EFAULT, f"{current()} is no process and has no user memory")
    return mm


def access_ok(address: int, size: int) -> bool:
    """Whether a range lies where programs' memory is; whether there is any is only seen by copying."""
    return 0 <= size <= TASK_SIZE and 0 <= address <= TASK_SIZE - size


def copy_from_user(address: int, size: int) -> bytes:
    """Bytes of the calling program.

    Raises:
        Errno: EFAULT, they cannot all be read (in Linux: a result other than 0).
    """
    might_sleep()
    data = _mm().read(address, size) if access_ok(address, size) else b""
    if len(data) < size:
        raise Errno(errno.EFAULT, f"{size} bytes at {address:#x}: only {len(data)} can be read")
    return data


def copy_to_user(address: int, data: bytes) -> int:
    """Write to the calling program's memory; the number of bytes that could NOT be written, 0 if all is well."""
    might_sleep()
    if not access_ok(address, len(data)):
        return len(data)
    return len(data) - _mm().write(address, data)


@dataclass(frozen=True)
class Page:
    """One page of a process, kept where it is for as long as it is pinned (Linux: struct page)."""

    mm: AddressSpace
    address: int
    """Of its first byte, in the process."""


def pin_user_pages(address: int, size: int, write: bool) -> list[Page]:
    """Pages that hold `size` bytes at `address` of the calling program, from the first on.

    Fewer than asked for when one in the middle cannot be had: as in Linux the caller has to count.

    Args:
        address: need not begin a page.
        size: in bytes, at least 1.
        write: the device is to write there, so that a page which the program may only read does not do.

    Raises:
        Errno: EFAULT, not even the first can be had.
    """
    might_sleep()
    mm = _mm()
    accessible = mm.accessible_bytes(address, size, write) if access_ok(address, size) else 0
    if not accessible:
        raise Errno(errno.EFAULT, f"no page at {address:#x}" + " to write to" * write)
    return [Page(mm, start) for start in range(address & PAGE_MASK, address + accessible, PAGE_SIZE)]


def unpin_user_pages(pages: Sequence[Page]) -> None:
    """Let go of pinned pages."""


@dataclass
class ScatterEntry:
    """One piece of memory, within a page (Linux: struct scatterlist)."""

    page: Page
    offset: int
    length: int
    dma_address: int = 0
    """For the device, once it is mapped."""
    dma_length: int = 0


class ScatterList(list[ScatterEntry]):
    """Pieces of memory that make one transfer, in their order (Linux: struct sg_table)."""

    mapping: object | None = None
    """What `dma_map_sg` keeps, None while it is not mapped."""


def sg_alloc_table_from_pages(pages: Sequence[Page], offset: int, size: int) -> ScatterList:
    """List of the `size` bytes that begin `offset` bytes into the first page, an entry for each page.

    Linux joins pages that happen to be neighbours in physical memory; ours never are.
    """
    entries = ScatterList()
    for page in pages:
        length = min(PAGE_SIZE - offset, size)
        if length <= 0:
            break
        entries.append(ScatterEntry(page, offset, length))
        offset, size = 0, size - length
    return entries
