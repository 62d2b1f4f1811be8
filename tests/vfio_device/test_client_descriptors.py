# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors that clients send: what they do to an eventfd, a file or a page holds up nobody and ends with them."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.bus.vfio_abi import IrqSetFlags
from ihsm.errors import RequestRefusedError
from ihsm_abi.doorbells import sq_tail_offset
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_device import vfu
from ihsm_device.server import Server
from support.descriptors import interrupts, open_descriptors
from support.modules import ReversingModule
from support.owned_context import owned
from support.polled import PolledDriver
from support.process import serve
from support.waiting import HANG_S, ended, until

PAGE = 4096
IOVA = 0x7000_0000_0000
FULL = 2**64 - 2
"""As much as write(2) lets an eventfd count."""
TO_EVENTFD = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
AT_ONCE = IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER


@pytest.fixture
def device(socket_folder: Path) -> Iterator[vfu.Context]:
    """A device with vectors and no BAR, served by a thread of its own."""
    context = vfu.Context(str(socket_folder / "s"))
    context.irqs(4)
    context.realize()
    with owned(context):
        yield context


@pytest.fixture
def client(device: vfu.Context, socket_folder: Path) -> Iterator[VfioUserFunction]:
    with VfioUserFunction(socket_folder / "s", timeout_s=HANG_S) as client:
        yield client


@pytest.fixture
def full_event() -> Iterator[int]:
    """An eventfd to which a write waits, as long as nobody reads it."""
    event = os.eventfd(0, 0)
    os.eventfd_write(event, FULL)
    yield event
    os.set_blocking(event, False)
    os.eventfd_read(event)  # lets a writer go that waits against all expectation
    os.close(event)


def test_a_full_eventfd_holds_up_no_interrupt(device: vfu.Context, client: VfioUserFunction, full_event: int) -> None:
    client._set_irqs(TO_EVENTFD, 0, 1, [full_event])
    caller = threading.Thread(target=device.trigger, args=(0,), daemon=True)
    caller.start()
    ended(caller)


def test_o_nonblock_that_is_cleared_later_changes_nothing(device: vfu.Context, client: VfioUserFunction) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    client.enable_interrupts([event])
    device.trigger(0)
    assert interrupts(event) == 1
    os.eventfd_write(event, FULL)
    os.set_blocking(event, True)
    caller = threading.Thread(target=lambda: device.trigger(0), daemon=True)
    caller.start()
    ended(caller)
    os.close(event)


def test_interrupts_that_the_client_asks_for_by_message_wait_for_nobody(
    client: VfioUserFunction, full_event: int
) -> None:
    client._set_irqs(TO_EVENTFD, 0, 1, [full_event])
    client._set_irqs(AT_ONCE, 0, 1, ())
    client.disable_interrupts()


def test_an_interrupt_of_the_clients_own(client: VfioUserFunction) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    client.enable_interrupts([event])
    client._set_irqs(AT_ONCE, 0, 1, ())
    assert os.eventfd_read(event) == 1
    os.close(event)


@pytest.mark.parametrize("kind", ["pipe", "read end", "socket", "memfd"])
def test_only_eventfds_are_interrupts(device: vfu.Context, client: VfioUserFunction, kind: str) -> None:
    """What else can be written to may wait, or be another's; the descriptors of before stay."""
    pipe, (one, other) = os.pipe(), socket.socketpair()
    stranger = {"pipe": pipe[1], "socket": one.fileno(), "memfd": os.memfd_create("x"), "read end": pipe[0]}[kind]
    event = os.eventfd(0, os.EFD_NONBLOCK)
    client.enable_interrupts([event])
    before = open_descriptors()
    for fds in ([stranger], [event, stranger]):
        with pytest.raises(RequestRefusedError):
            client._set_irqs(TO_EVENTFD, 0, len(fds), fds)
    until(lambda: open_descriptors() <= before + 1, "the end of refused descriptors")  # a thread closes them
    device.trigger(0)
    assert interrupts(event) == 1
    for fd in (*pipe, event):
        os.close(fd)
    one.close()
    other.close()


@pytest.mark.parametrize("path", ["/proc/self/maps", "/dev/zero", "/sys/kernel/notes", "pipe"])
def test_files_whose_pages_may_never_come_are_no_memory(
    device: vfu.Context, client: VfioUserFunction, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The mapping is answered as that of memory without a file; the log has a line for each file."""
    fd = os.pipe()[0] if path == "pipe" else os.open(path, os.O_RDONLY)
    for page in range(3):
        client.map_dma(fd, 0, IOVA + page * PAGE, PAGE)
    with pytest.raises(OSError, match="guest memory"):
        device.dma_read(IOVA, 1)
    [line] = [record.message for record in caplog.records if "guest memory" in record.message]
    name = {"/proc/self/maps": "proc", "/sys/kernel/notes": "sysfs", "/dev/zero": "dev", "pipe": "pipe"}[path]
    assert name in line
    assert "memfd" in line
    client.unmap_dma(IOVA, 3 * PAGE)
    os.close(fd)


def test_rings_in_such_a_file_leave_the_controller_not_ready(socket_folder: Path) -> None:
    with (
        serve("--socket", str(socket_folder / "s")) as server,
        Path("/proc/self/maps").open() as file,
        VfioUserFunction(server.paths[0]) as function,
    ):
        function.map_dma(file.fileno(), 0, IOVA, 4 * PAGE)
        driver = PolledDriver(function)
        driver.write(Register.AQA, 0x0007_0007)
        driver.write(Register.ASQ, IOVA, 8)
        driver.write(Register.ACQ, IOVA + PAGE, 8)
        driver.write(Register.CC, 1)
        assert driver.csts == 0
        assert server.stop() == 0
    assert sum("proc" in line for line in server.errors) == 1


@pytest.mark.parametrize("size", [PAGE, 16 * PAGE])
def test_memory_at_any_offset_of_its_file(device: vfu.Context, client: VfioUserFunction, size: int) -> None:
    """The mapping begins a part of a page before the region and must not end as much too early."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size + PAGE)
    client.map_dma(fd, PAGE // 2, IOVA, size)
    device.dma_write(IOVA, b"\7" * size)
    assert os.pread(fd, size, PAGE // 2) == b"\7" * size
    os.close(fd)


CUT = """
import os, sys, threading
from ihsm.bus import VfioUserFunction
from ihsm_device import vfu
path, flags, page, pages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
context = vfu.Context(path)
context.realize()
stop = os.eventfd(0)
threading.Thread(target=lambda: context.attach(stop) and context.run(stop), daemon=True).start()
client = VfioUserFunction(path)
fd = os.memfd_create("guest", flags)
os.ftruncate(fd, page * pages)
client.map_dma(fd, 0, 0x7000_0000_0000, page * pages)
os.ftruncate(fd, 0)
for number in range(0, pages, 2):
    assert context.dma_read(0x7000_0000_0000 + number * page + 5, 1) == b"\\0"
print("alive", flush=True)
os._exit(0)
"""


def cut(socket_folder: Path, flags: int, page: int, pages: int) -> subprocess.CompletedProcess[str]:
    """A process whose client cuts its memory file, of which every second page is read then."""
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    arguments = [str(socket_folder / "s"), str(flags), str(page), str(pages)]
    return subprocess.run([sys.executable, "-c", CUT, *arguments], env=plain, capture_output=True, text=True)


def test_more_pages_are_cut_than_the_process_may_have_mappings(socket_folder: Path) -> None:
    most = int(Path("/proc/sys/vm/max_map_count").read_text())
    if most > 1_000_000:
        pytest.skip(f"vm.max_map_count is {most}: more pages than a test should touch")
    done = cut(socket_folder, 0, PAGE, 2 * most)
    assert done.returncode != -signal.SIGBUS
    assert done.stdout == "alive\n", done.stderr


def test_a_huge_page_that_is_cut(socket_folder: Path) -> None:
    folder = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    if not folder.exists() or int((folder / "free_hugepages").read_text()) < 2:
        pytest.skip("no huge pages (sysctl vm.nr_hugepages=2)")
    done = cut(socket_folder, os.MFD_HUGETLB | os.MFD_HUGE_2MB, 2 << 20, 2)
    assert done.stdout == "alive\n", done.stderr


def event_id(fd: int) -> str:
    """Which eventfd a descriptor names."""
    lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    return next(line for line in lines if line.startswith("eventfd-id"))


def test_doorbell_page_and_kick_descriptor_end_with_their_client(socket_folder: Path) -> None:
    paths = [socket_folder / "a", socket_folder / "b"]
    server = Server(paths, lambda index: ReversingModule(), doorbell_page=True)
    server.start()
    try:
        with VfioUserFunction(paths[0]) as first, VfioUserFunction(paths[1]) as neighbour:
            fd, kick = first._region_fds[Bar.DOORBELLS], first.write_event(Bar.DOORBELLS)
            others = neighbour.write_event(Bar.DOORBELLS)
            kept = mmap.mmap(fd, PAGE)
            assert kick is not None
            assert others is not None
            assert event_id(kick) != event_id(others), "two functions share a kick descriptor"
            ours = event_id(kick)
        until(lambda: server.functions[0].status()["counters"]["clients_lost"] == 1, "the client's end")
        with VfioUserFunction(paths[0]) as second:
            again = second.write_event(Bar.DOORBELLS)
            assert again is not None
            assert event_id(again) != ours
            driver = PolledDriver(second)
            driver.enable()
            page = second.map_bar(Bar.DOORBELLS)
            assert page is not None
            before = server.functions[0].engine.counters()["doorbells"]
            kept[sq_tail_offset(0) : sq_tail_offset(0) + 4] = (3).to_bytes(4, "little")
            assert page[sq_tail_offset(0) : sq_tail_offset(0) + 4] == bytes(4)
            driver.create_pair(1)
            assert server.functions[0].engine.counters()["doorbells_bad_value"] == 0
            assert server.functions[0].engine.counters()["doorbells"] > before
    finally:
        server.stop()
