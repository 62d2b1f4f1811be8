# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""libvfio-user from Python: BARs, memory, interrupts, resets, and clients that misbehave."""

from __future__ import annotations

import logging
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.bus.function import drain_event
from ihsm.bus.vfio_abi import IrqSetFlags
from ihsm.errors import BusError, RequestRefusedError
from ihsm_abi.pci_config import DEVICE_CONTROL_OFFSET, ConfigRegister, DeviceControl
from ihsm_device import pci, vfu
from support.descriptors import interrupts, open_descriptors
from support.owned_context import owned
from support.waiting import HANG_S, ended, until

BAR_BYTES = 4096
PAGE = 4096
MSIX_CAPABILITY = bytes.fromhex("110007000400000004080000")


class Device:
    """A device whose BAR0 is plain memory, with an owner thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.memory = bytearray(BAR_BYTES)
        self.resets: list[vfu.ResetType] = []
        self.dma: list[tuple[str, vfu.DmaRegion]] = []
        self.logged: list[tuple[int, str]] = []
        self.context = vfu.Context(str(path), log=lambda level, text: self.logged.append((level, text)))
        self.context.set_ids(0x1B36, 0x0001, 0x1AF4, 0x0002)
        self.context.set_class(0xFF0001, 3)
        self.context.add_capability(MSIX_CAPABILITY, 0x40)
        self.context.region(0, BAR_BYTES, read=self.read, write=self.write)
        self.context.irqs(8)
        self.context.on_reset(self.resets.append)
        self.context.on_dma(lambda r: self.dma.append(("map", r)), lambda r: self.dma.append(("unmap", r)))
        self.context.realize()
        self.stop_fd = os.eventfd(0)
        self.results: list[vfu.RunResult] = []
        self.owner = threading.Thread(target=self.own, daemon=True)
        self.owner.start()

    def read(self, offset: int, size: int) -> bytes:
        if offset == 0xF00:
            raise RuntimeError("asked to fail")
        return bytes(self.memory[offset : offset + (size if offset != 0xE00 else size - 1)])

    def write(self, offset: int, data: bytes) -> None:
        self.memory[offset : offset + len(data)] = data

    def own(self) -> None:
        while self.context.attach(self.stop_fd):
            self.results.append(self.context.run(self.stop_fd))

    def wait_for(self, what: object, count: int = 1) -> None:
        """Until the list `what` has `count` items."""
        until(lambda: len(what) >= count, f"{count} entries")  # type: ignore[arg-type]

    def close(self) -> None:
        os.eventfd_write(self.stop_fd, 1)
        ended(self.owner)
        self.context.close()
        os.close(self.stop_fd)


@pytest.fixture
def device(socket_folder: Path) -> Iterator[Device]:
    device = Device(socket_folder / "s")
    yield device
    device.close()


@pytest.fixture
def client(device: Device) -> Iterator[VfioUserFunction]:
    with VfioUserFunction(device.path, timeout_s=HANG_S) as client:
        yield client


def test_configuration_space(device: Device, client: VfioUserFunction) -> None:
    config = client.read_config(0, 64)
    assert struct.unpack_from("<HH", config) == (0x1B36, 0x0001)
    assert config[8:12] == bytes([3, 0x01, 0x00, 0xFF])
    assert struct.unpack_from("<HH", config, 0x2C) == (0x1AF4, 0x0002)
    assert client.read_config(0x40, 12)[0] == 0x11
    assert bytes(device.context.config_space[:4]) == config[:4]


def test_a_64_bit_bar_below_any_size_of_address(client: VfioUserFunction) -> None:
    assert client.read_config(0x10, 4)[0] & 0xF == 0x4
    client.write_config(0x10, b"\xff" * 4)
    client.write_config(0x14, b"\xff" * 4)
    assert client.read_config(0x10, 8) == (2**64 - BAR_BYTES | 4).to_bytes(8, "little")
    client.write_config(0x10, (0x12345000).to_bytes(4, "little"))
    client.write_config(0x14, (0x38).to_bytes(4, "little"))
    assert client.read_config(0x10, 8) == (0x38_12345004).to_bytes(8, "little")


def test_bars_of_32_bits_and_bars_that_do_not_exist(socket_folder: Path) -> None:
    context = vfu.Context(str(socket_folder / "n"))
    context.region(1, 3 * PAGE, bits64=False)
    with pytest.raises(OSError, match="BAR5"):
        context.region(5, PAGE)
    context.realize()
    thread = threading.Thread(target=lambda: context.attach() and context.run(), daemon=True)
    thread.start()
    with VfioUserFunction(socket_folder / "n", timeout_s=HANG_S) as client:
        client.write_config(0x10, b"\xff" * 24)
        assert client.read_config(0x10, 24) == bytes(4) + (2**32 - 4 * PAGE).to_bytes(4, "little") + bytes(16)
    ended(thread)
    context.close()


def test_registers_of_a_vendor_specific_capability(socket_folder: Path) -> None:
    """Written as they are declared; the header and what is not declared are read only."""
    context = vfu.Context(str(socket_folder / "v"))
    registers = (ConfigRegister(4, 2, writable=0x0FF0), ConfigRegister(6, 1, clearable=0x81))
    position = context.add_capability(bytes.fromhex("0900080012345fff"), registers=registers)
    context.realize()
    thread = threading.Thread(target=lambda: context.attach() and context.run(), daemon=True)
    thread.start()
    with VfioUserFunction(socket_folder / "v", timeout_s=HANG_S) as client:
        client.write_config(position, b"\xff" * 8)
        assert client.read_config(position, 8) == bytes.fromhex("09000800f23f5eff")
        client.reset()
        assert client.read_config(position, 8) == bytes.fromhex("0900080012345fff")
    ended(thread)
    context.close()


def test_writes_outside_of_header_and_capabilities_have_no_effect(client: VfioUserFunction) -> None:
    client.write_config(0xE0, b"\x55\xaa")
    assert client.read_config(0xE0, 2) == b"\0\0"


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_accesses_of_every_width(device: Device, client: VfioUserFunction, width: int) -> None:
    value = 0x8877665544332211 & (1 << 8 * width) - 1
    client.write_bar(0, 0x100, width, value)
    assert device.memory[0x100 : 0x100 + width] == value.to_bytes(width, "little")
    assert client.read_bar(0, 0x100, width) == value


@pytest.mark.parametrize("offset", [0xE00, 0xF00])
def test_a_callback_that_fails_fails_the_access_only(
    device: Device, client: VfioUserFunction, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RequestRefusedError):
        client.read_bar(0, offset, 4)
    assert "callback failed" in caplog.text
    assert client.read_bar(0, 0, 4) == 0


def test_memory_through_mapped_pointers(device: Device, client: VfioUserFunction) -> None:
    arena = client.allocate_arena(4 * PAGE)
    buffer = arena.allocate(2 * PAGE, PAGE)
    device.wait_for(device.dma)
    buffer.view[:] = 7
    assert device.context.dma_read(buffer.iova + 100, 5000) == b"\7" * 5000
    device.context.dma_write(buffer.iova + PAGE - 2, b"abcd")
    assert buffer.view[PAGE - 3 : PAGE + 3].tobytes() == b"\7abcd\7"
    with pytest.raises(OSError, match="guest memory"):
        device.context.dma_read(buffer.iova + (1 << 40), 1)
    with pytest.raises(OSError, match="guest memory"):
        device.context.dma_write(buffer.iova + 3 * PAGE, b"x" * (2 * PAGE))
    arena.close()
    device.wait_for(device.dma, 2)
    assert [kind for kind, _ in device.dma] == ["map", "unmap"]
    with pytest.raises(OSError, match="guest memory"):
        device.context.dma_read(buffer.iova, 1)


def test_one_unmap_covers_many_regions_or_none(device: Device, client: VfioUserFunction) -> None:
    """As QEMU with a virtual IOMMU sends them: mapped page by page, unmapped at once."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 600 * PAGE)
    base, pages = 0x1000_0000, 600
    for page in range(pages):
        client.map_dma(fd, page * PAGE, base + page * PAGE, PAGE)
    assert len(device.dma) == pages
    with pytest.raises(RequestRefusedError):
        client.unmap_dma(base + 100, PAGE)
    assert device.context.dma_read(base, 2 * PAGE) == bytes(2 * PAGE)
    client.unmap_dma(base, 512 * PAGE)
    assert len(device.dma) == pages + 512
    with pytest.raises(OSError, match="guest memory"):
        device.context.dma_read(base + 511 * PAGE, 1)
    device.context.dma_read(base + 512 * PAGE, 88 * PAGE)
    client.unmap_dma(base, 512 * PAGE)
    client.unmap_dma(0x9000_0000_0000, 1 << 21)
    client.map_dma(fd, 0, base, 512 * PAGE)
    device.context.dma_write(base, b"new")
    assert os.pread(fd, 3, 0) == b"new"
    os.close(fd)


def test_regions_that_make_no_sense_are_refused(device: Device, client: VfioUserFunction) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 4 * PAGE)
    for offset, iova, size in (
        (0, 0x1000, 5 * PAGE),
        (4 * PAGE, 0x1000, PAGE),
        (1 << 62, 0x1000, PAGE),
        (0, 2**64 - PAGE, 2 * PAGE),
    ):
        with pytest.raises(BusError):
            client.map_dma(fd, offset, iova, size)
    client.map_dma(fd, 0, 0x1000, 2 * PAGE)
    with pytest.raises(RequestRefusedError):
        client.map_dma(fd, 0, 0x2000, PAGE)
    before = open_descriptors()
    for _ in range(50):
        client.map_dma(fd, 0, 0x1000, 2 * PAGE)
        with pytest.raises(BusError):
            client.map_dma(fd, PAGE, 0x1000, 8 * PAGE)
    assert open_descriptors() <= before + 1
    os.close(fd)


def test_memory_whose_file_is_cut_reads_as_zeros(device: Device, client: VfioUserFunction) -> None:
    """The process and its other functions go on; what the client did hurts the client."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    os.pwrite(fd, b"\7" * 16 * PAGE, 0)
    client.map_dma(fd, 0, 0x10000, 16 * PAGE)
    assert device.context.dma_read(0x10000 + PAGE - 8, 16) == b"\7" * 16
    os.ftruncate(fd, PAGE)
    assert device.context.dma_read(0x10000 + PAGE - 8, 16) == b"\7" * 8 + bytes(8)
    device.context.dma_write(0x10000 + PAGE - 8, b"\5" * 3 * PAGE)
    assert os.pread(fd, 2 * PAGE, 0) == b"\7" * (PAGE - 8) + b"\5" * 8
    client.unmap_dma(0x10000, 16 * PAGE)
    assert client.read_bar(0, 0, 4) == 0
    os.close(fd)


def test_a_region_that_begins_within_a_page_of_its_file_is_reached_whole(
    device: Device, client: VfioUserFunction
) -> None:
    """The mapping covers what lies before the region in its first page, and the region's end."""
    fd = os.memfd_create("guest")
    content = os.urandom(4 * PAGE)
    os.write(fd, content)
    for offset, size in ((PAGE // 2, PAGE), (PAGE - 16, 32), (PAGE + 16, 2 * PAGE), (16, 4 * PAGE - 16)):
        client.map_dma(fd, offset, 0x10000, size)
        assert device.context.dma_read(0x10000, size) == content[offset : offset + size]
        client.unmap_dma(0x10000, size)
    os.close(fd)


@pytest.mark.parametrize(("options", "says"), [((), b""), (("-X", "faulthandler"), b"Bus error")])
def test_a_bus_error_elsewhere_still_ends_the_process(
    socket_folder: Path, options: tuple[str, ...], says: bytes
) -> None:
    """Our handler is for guest memory only; the one of before comes to its right."""
    program = (
        "import mmap, os; from ihsm_device import vfu; "
        f"vfu.Context({str(socket_folder / 'b')!r}); fd = os.memfd_create('x'); os.ftruncate(fd, 4096); "
        "m = mmap.mmap(fd, 4096); os.ftruncate(fd, 0); m[0]"
    )
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer has its own way
    done = subprocess.run([sys.executable, *options, "-c", program], env=plain, capture_output=True)
    assert done.returncode == -signal.SIGBUS
    assert says in done.stderr
    assert bool(done.stderr) is bool(says)


def test_memory_without_a_descriptor_is_known_and_not_reached(device: Device, client: VfioUserFunction) -> None:
    client.map_dma(None, 0, 0xC0000, 0x20000)
    device.wait_for(device.dma)
    assert device.dma == [("map", vfu.DmaRegion(0xC0000, 0x20000, False))]
    with pytest.raises(OSError, match="guest memory"):
        device.context.dma_read(0xC0000, 1)


def test_interrupts(device: Device, client: VfioUserFunction) -> None:
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    client.enable_interrupts([events[0], None, events[2]])
    for vector in (0, 1, 2, 7):
        device.context.trigger(vector)
    assert (interrupts(events[0]), interrupts(events[2])) == (1, 1)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(events[1])
    with pytest.raises(OSError, match="vector 32"):
        device.context.trigger(32)
    client.disable_interrupts()
    device.context.trigger(0)
    assert not any(level >= logging.ERROR for level, _ in device.logged)
    for event in events:
        os.close(event)


@pytest.mark.parametrize(
    ("start", "count"),
    [(1, 2**32 - 1), (7, 2**32 - 4), (0, 2**32 - 1), (0, 9), (7, 2), (8, 0), (8, 1), (2**32 - 1, 1), (1, 0)],
)
@pytest.mark.parametrize("data", [IrqSetFlags.DATA_NONE, IrqSetFlags.DATA_EVENTFD])
def test_ranges_of_vectors_beyond_the_table_are_refused(
    device: Device, client: VfioUserFunction, start: int, count: int, data: IrqSetFlags
) -> None:
    """Those too whose end goes round 2^32."""
    event = os.eventfd(0, os.EFD_NONBLOCK)
    client.enable_interrupts([event])
    with pytest.raises(RequestRefusedError):
        client._set_irqs(data | IrqSetFlags.ACTION_TRIGGER, start, count, ())
    device.context.trigger(0)
    assert interrupts(event) == 1
    os.close(event)


def test_a_range_of_vectors_is_disabled_whole_and_alone(device: Device, client: VfioUserFunction) -> None:
    """A request without descriptors ends those of its vectors, also where the range does not begin at 0."""
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(6)]
    client.enable_interrupts(events)
    client._set_irqs(IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER, 3, 2, ())
    for vector in range(6):
        device.context.trigger(vector)
    assert [interrupts(events[vector]) for vector in (5, 0, 1, 2)] == [1, 1, 1, 1]
    assert [drain_event(events[vector]) for vector in (3, 4)] == [0, 0]
    for event in events:
        os.close(event)


def test_interrupts_wait_for_the_function_mask(device: Device, client: VfioUserFunction) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    client.enable_interrupts([event])
    client.write_config(0x42, (1 << 14 | 1 << 15).to_bytes(2, "little"))
    device.context.trigger(0)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(event)
    client.write_config(0x42, (1 << 15).to_bytes(2, "little"))
    assert interrupts(event) == 1
    os.close(event)


@pytest.mark.parametrize("ends", ["reset", "close"])
def test_a_function_mask_does_not_outlive_a_reset_or_its_client(device: Device, ends: str) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    client = VfioUserFunction(device.path, timeout_s=HANG_S)
    client.write_config(0x42, (1 << 14 | 1 << 15).to_bytes(2, "little"))
    if ends == "close":
        client.close()
        client = VfioUserFunction(device.path, timeout_s=HANG_S)
    else:
        client.reset()
    client.enable_interrupts([event])
    device.context.trigger(0)
    assert interrupts(event) == 1
    client.close()
    os.close(event)


def test_reset_and_lost_client(device: Device) -> None:
    client = VfioUserFunction(device.path, timeout_s=HANG_S)
    client.allocate_arena(PAGE)
    client.reset()
    assert device.resets == [vfu.ResetType.DEVICE]
    client.close()
    device.wait_for(device.results)
    assert device.resets == [vfu.ResetType.DEVICE, vfu.ResetType.LOST_CONNECTION]
    assert [kind for kind, _ in device.dma] == ["map", "unmap"]
    assert device.results == [vfu.RunResult.DISCONNECTED]
    with VfioUserFunction(device.path, timeout_s=HANG_S) as again:
        assert again.read_bar(0, 0, 4) == 0


def test_a_reset_that_fails_is_told(socket_folder: Path) -> None:
    """By the write that asked for it, as by the message that asks for another kind; the next one works."""
    resets: list[vfu.ResetType] = []

    def fail_twice(kind: vfu.ResetType) -> None:
        resets.append(kind)
        if len(resets) <= 2:
            raise RuntimeError("asked to fail")

    context = vfu.Context(str(socket_folder / "r"))
    block = pci.pci_express()
    control = context.add_capability(block.data, block.position) + DEVICE_CONTROL_OFFSET
    initiate = int(DeviceControl.of(initiate_reset=1)).to_bytes(2, "little")
    context.on_reset(fail_twice)
    context.realize()
    with owned(context), VfioUserFunction(socket_folder / "r", timeout_s=HANG_S) as client:
        with pytest.raises(RequestRefusedError):
            client.write_config(control, initiate)
        with pytest.raises(RequestRefusedError):
            client.reset()
        client.write_config(control, initiate)
        assert resets == [vfu.ResetType.FUNCTION_LEVEL, vfu.ResetType.DEVICE, vfu.ResetType.FUNCTION_LEVEL]


def test_a_mapped_bar(socket_folder: Path) -> None:
    fd = os.memfd_create("bar")
    os.ftruncate(fd, PAGE)
    context = vfu.Context(str(socket_folder / "m"))
    context.region(2, PAGE, mmap_fd=fd)
    context.realize()
    stop = os.eventfd(0)
    thread = threading.Thread(target=lambda: context.attach(stop) and context.run(stop), daemon=True)
    thread.start()
    with VfioUserFunction(socket_folder / "m", timeout_s=HANG_S) as client:
        mapping = client.map_bar(2)
        assert mapping is not None
        mapping[8:12] = b"ring"
        assert mmap.mmap(fd, PAGE)[8:12] == b"ring"
        assert client.read_bar(2, 8, 4) == 0, "without a callback an access reads zeros"
    ended(thread)
    context.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff" * 16,
        os.urandom(4096),
        struct.pack("<HHIII", 1, 1, 20, 0, 0) + b"\0\0\1\0",
        struct.pack("<HHIII", 1, 1, 16, 0, 0),
        struct.pack("<HHIII", 1, 1, 0xFFFFFFFF, 0, 0),
        struct.pack("<HHIII", 1, 1, 24, 0, 0) + b"\0\0\1\0{no}",
    ],
)
def test_a_client_without_a_proper_greeting_is_forgotten(device: Device, data: bytes) -> None:
    stranger = socket.socket(socket.AF_UNIX)
    stranger.connect(str(device.path))
    stranger.sendall(data)
    stranger.close()
    with VfioUserFunction(device.path, timeout_s=HANG_S) as client:
        assert client.read_bar(0, 0, 4) == 0


@pytest.mark.parametrize("greeting", [b"", b"\1\0\1\0"])
def test_a_silent_client_does_not_hold_the_device(device: Device, greeting: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(device.path))
        stranger.sendall(greeting)
        with VfioUserFunction(device.path, timeout_s=HANG_S) as client:
            assert client.read_bar(0, 0, 4) == 0


def test_two_devices_and_a_path_that_is_taken(device: Device, socket_folder: Path) -> None:
    with pytest.raises(OSError, match="in use"):
        vfu.Context(str(device.path))
    with pytest.raises(OSError, match="too long"):
        vfu.Context(str(socket_folder / ("x" * 200)))
    other = Device(socket_folder / "t")
    with VfioUserFunction(other.path, timeout_s=HANG_S) as second:
        second.write_bar(0, 0, 4, 5)
        assert (other.memory[0], device.memory[0]) == (5, 0)
    other.close()


def test_run_returns_when_nothing_comes(socket_folder: Path) -> None:
    context = vfu.Context(str(socket_folder / "q"))
    context.region(0, PAGE)
    context.realize()
    assert not context.attach(timeout_s=0.01)
    peers: list[VfioUserFunction] = []
    peer = threading.Thread(target=lambda: peers.append(VfioUserFunction(socket_folder / "q", timeout_s=HANG_S)))
    peer.start()
    assert context.attach(timeout_s=HANG_S)
    while peer.is_alive():
        context.run(timeout_s=0.05)
    assert context.run(timeout_s=0.01) is vfu.RunResult.TIMEOUT
    peers[0].close()
    assert context.run(timeout_s=HANG_S) is vfu.RunResult.DISCONNECTED
    context.close()
