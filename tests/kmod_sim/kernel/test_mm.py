# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of processes: good pointers are copied, bad ones give EFAULT, in our own process and in others."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import (
    PAGE_SIZE,
    TASK_SIZE,
    Page,
    ProcessMemory,
    access_ok,
    copy_from_user,
    copy_to_user,
    pin_user_pages,
    sg_alloc_table_from_pages,
    unpin_user_pages,
)
from ihsm_kmod.kernel.task import current
from support.pci_drivers import Bench
from support.user_pages import GONE, NO_ADDRESS, READ_ONLY, USABLE, UserPages

T = TypeVar("T")
OTHER = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 8192)
memory[:5] = b"hello"
anchor = ctypes.c_char.from_buffer(memory)
print(ctypes.addressof(anchor), flush=True)
sys.stdin.readline()
print(memory[100:105].decode(), flush=True)
"""


@pytest.fixture
def call(bench: Bench) -> Callable[..., T]:
    """Call kernel code as a system call of this process."""

    def run(function: Callable[..., T], *args: object) -> T:
        def as_process() -> T:
            current().mm = ProcessMemory(os.getpid())
            return function(*args)

        return bench.run(as_process)

    return run


def test_what_is_copied_in_and_out(call: Callable[..., T]) -> None:
    pages = UserPages(USABLE, USABLE)
    assert call(copy_to_user, pages.address + PAGE_SIZE - 3, b"across") == 0
    assert pages.get(PAGE_SIZE - 3, 6) == b"across"
    assert call(copy_from_user, pages.address + PAGE_SIZE - 3, 6) == b"across"
    assert call(copy_from_user, pages.address, 0) == b""


@pytest.mark.parametrize("address", [0, 8, PAGE_SIZE, TASK_SIZE - 4, NO_ADDRESS, (1 << 64) - 1])
def test_a_bad_pointer_is_an_error_number(call: Callable[..., T], address: int) -> None:
    with pytest.raises(Errno) as error:
        call(copy_from_user, address, 8)
    assert error.value.errno == errno.EFAULT
    assert call(copy_to_user, address, b"12345678") == 8


def test_a_copy_goes_up_to_the_first_page_that_is_not_there(call: Callable[..., T]) -> None:
    pages = UserPages(USABLE, GONE)
    with pytest.raises(Errno, match="only 4 can be read"):
        call(copy_from_user, pages.address + PAGE_SIZE - 4, 10)
    assert call(copy_to_user, pages.address + PAGE_SIZE - 4, b"0123456789") == 6
    assert pages.get(PAGE_SIZE - 4, 4) == b"0123"


def test_what_a_program_may_only_read_is_not_written(call: Callable[..., T]) -> None:
    pages = UserPages(READ_ONLY)
    assert call(copy_to_user, pages.address, b"x") == 1
    assert call(copy_from_user, pages.address, 1) == b"\0"


def test_more_than_one_call_of_the_system_takes(call: Callable[..., T]) -> None:
    size = 5 * 1024 * 1024 + 17
    memory = bytearray(os.urandom(size))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert call(copy_from_user, address, size) == memory
    data = os.urandom(size)
    assert call(copy_to_user, address, data) == 0
    assert memory == data


@pytest.mark.parametrize(
    ("address", "size", "is_ok"),
    [
        (0, 0, True),
        (0, TASK_SIZE, True),
        (1, TASK_SIZE, False),
        (TASK_SIZE, 0, True),
        (TASK_SIZE, 1, False),
        (TASK_SIZE - 1, 1, True),
        ((1 << 64) - 1, 2, False),
    ],
)
def test_where_programs_have_memory(address: int, size: int, is_ok: bool) -> None:
    assert access_ok(address, size) is is_ok


def test_a_thread_of_the_kernel_has_no_user_memory(bench: Bench) -> None:
    pages = UserPages(USABLE)
    with pytest.raises(Errno, match="no user memory"):
        bench.run(copy_from_user, pages.address, 1)


def test_memory_of_another_process() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin
        assert other.stdout
        address = int(other.stdout.readline())
        memory = ProcessMemory(other.pid)
        assert memory.read(address, 5) == b"hello"
        assert memory.write(address + 100, b"world") == 5
        assert memory.accessible_bytes(address, 5, write=True) == 5
        assert memory.accessible_bytes(8, 1, write=False) == 0
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "world\n"
    assert memory.read(address, 5) == b""
    assert memory.write(address, b"gone") == 0
    assert memory.accessible_bytes(address, 5, write=True) == 0


@pytest.mark.parametrize(
    ("protections", "write", "pinned"),
    [
        ([USABLE, USABLE, USABLE], True, 3),
        ([READ_ONLY, READ_ONLY, READ_ONLY], False, 3),
        ([USABLE, READ_ONLY, USABLE], True, 1),
        ([USABLE, USABLE, GONE], True, 2),
        ([USABLE, USABLE, GONE], False, 2),
    ],
)
def test_pages_are_pinned_up_to_the_first_that_cannot_be(
    call: Callable[..., T], protections: list[int], write: bool, pinned: int
) -> None:
    pages = UserPages(*protections)
    got: list[Page] = call(pin_user_pages, pages.address + 100, 2 * PAGE_SIZE, write)  # type: ignore[assignment]
    assert [page.address for page in got] == [pages.address + number * PAGE_SIZE for number in range(pinned)]
    call(unpin_user_pages, got)


@pytest.mark.parametrize(("protection", "write"), [(GONE, False), (GONE, True), (READ_ONLY, True)])
def test_pinning_that_cannot_begin_is_an_error(call: Callable[..., T], protection: int, write: bool) -> None:
    pages = UserPages(protection, USABLE)
    with pytest.raises(Errno) as error:
        call(pin_user_pages, pages.address, 2 * PAGE_SIZE, write)
    assert error.value.errno == errno.EFAULT


class Nowhere:
    """Memory of no process."""

    def read(self, address: int, size: int) -> bytes:
        return b""

    def write(self, address: int, data: bytes) -> int:
        return 0

    def accessible_bytes(self, address: int, size: int, write: bool) -> int:
        return 0


@given(offset=st.integers(0, PAGE_SIZE - 1), size=st.integers(0, 5 * PAGE_SIZE))
def test_a_list_has_the_bytes_in_their_order(offset: int, size: int) -> None:
    count = -(-(offset + size) // PAGE_SIZE)
    pages = [Page(Nowhere(), number * PAGE_SIZE) for number in range(count)]
    entries = sg_alloc_table_from_pages(pages, offset, size)
    spans = [range(one.page.address + one.offset, one.page.address + one.offset + one.length) for one in entries]
    assert [address for span in spans for address in span] == list(range(offset, offset + size))
    assert all(one.length for one in entries)
