# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Writes to configuration space act as on hardware: PCI Local Bus 3.0 §6.1 and §6.2, PCI Express Base 7.5, 6.6.2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.bus.function import PciFunction
from ihsm.bus.vfio_abi import Region
from ihsm_abi.doe import DOE_READ_MAILBOX_OFFSET, DOE_STATUS_OFFSET
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_device import pci, vfu
from support.devices import DeviceUnderTest, open_device
from support.doe_model import MailboxModel
from support.owned_context import owned
from support.raw_client import RawClient
from support.waiting import HANG_S

CONFIG_BYTES = 4096
USED = 0x160
"""Behind it there is nothing."""
PMCSR, DEVICE_CONTROL, DEVICE_STATUS, MSIX_CONTROL = 0x44, 0x78, 0x7A, 0xB2
WRITABLE = {
    0x04: 0x0507.to_bytes(2, "little"),
    0x0C: b"\xff",
    0x10: (2**64 - 4096).to_bytes(8, "little"),
    0x18: (2**64 - 4096).to_bytes(8, "little"),
    0x20: (2**64 - 4096).to_bytes(8, "little"),
    0x3C: b"\xff",
    PMCSR: b"\x03",
    DEVICE_CONTROL: 0x79FF.to_bytes(2, "little"),
    0x80: 0x02CB.to_bytes(2, "little"),
    0x98: 0x0310.to_bytes(2, "little"),
    0xA0: 0xFFBF.to_bytes(2, "little"),
    MSIX_CONTROL: 0xC000.to_bytes(2, "little"),
    0x13C: 0xFF3FC001.to_bytes(4, "little"),
    0x148: 0xFF7FC001.to_bytes(4, "little"),
    0x150: 0x00FFFF00.to_bytes(4, "little"),
    0x154: 0xFFFFFF01.to_bytes(4, "little"),
}
"""Bits of the function's registers that take what is written; the other bits are read only or never set."""
MAILBOX = 0x110


@pytest.fixture
def device(socket_folder: Path) -> Iterator[DeviceUnderTest]:
    with open_device("vfio-user", socket_folder) as device:
        yield device


class Model:
    """What configuration space must hold."""

    def __init__(self, power_on: bytes) -> None:
        self.power_on = power_on
        self.now = bytearray(power_on)
        self.mailbox = MailboxModel()
        self.mask = bytearray(len(power_on))
        for at, bits in WRITABLE.items():
            self.mask[at : at + len(bits)] = bits

    def write(self, offset: int, data: bytes) -> None:
        power_state = self.now[PMCSR] & 3
        for at, value in enumerate(data, offset):
            self.now[at] = self.now[at] & ~self.mask[at] | value & self.mask[at]
        if self.now[PMCSR] & 3 in (1, 2):  # D1 and D2 do not exist
            self.now[PMCSR] = self.now[PMCSR] & ~3 | power_state
        if offset <= DEVICE_CONTROL + 1 < offset + len(data) and data[DEVICE_CONTROL + 1 - offset] & 0x80:
            self.now[:] = self.power_on
            self.mailbox.reset()
        else:
            self.mailbox.write(offset - MAILBOX, data)
        for register in (DOE_STATUS_OFFSET, DOE_READ_MAILBOX_OFFSET):
            at = MAILBOX + register
            self.now[at : at + 4] = self.mailbox.read(register).to_bytes(4, "little")


@pytest.fixture
def model(device: DeviceUnderTest) -> Model:
    return Model(device.function.read_config(0, CONFIG_BYTES))


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_every_offset_at_every_width(device: DeviceUnderTest, model: Model, width: int) -> None:
    function = device.function
    for offset in (*range(USED), *range(USED, CONFIG_BYTES - width + 1, 61), CONFIG_BYTES - width):
        for value in (b"\xff", b"\0", b"\x5a", b"\xa5", b"\x7f"):
            function.write_config(offset, value * width)
            model.write(offset, value * width)
            assert function.read_config(0, USED) == model.now[:USED], (offset, value)
        assert function.read_config(offset, width) == model.now[offset : offset + width]
    assert function.read_config(0, CONFIG_BYTES) == model.now


WRITES = st.tuples(
    st.one_of(st.integers(0, USED), st.integers(0, CONFIG_BYTES - 1), st.sampled_from(sorted(WRITABLE))),
    st.binary(min_size=1, max_size=24),
)


@settings(max_examples=60)
@given(st.lists(WRITES, max_size=20))
@example([(0xBB, b"\x41" * 12)])
@example([(0xB0, b"\xff" * 64), (0x70, b"\0" * 64), (0, b"\xff" * 256)])
def test_writes_of_any_length_across_registers(
    device: DeviceUnderTest, model: Model, writes: list[tuple[int, bytes]]
) -> None:
    """Those, too, that begin within a capability and end behind it, and those that begin in front of one."""
    for offset, data in writes:
        inside = data[: CONFIG_BYTES - offset]
        device.function.write_config(offset, inside)
        model.write(offset, inside)
    assert device.function.read_config(0, CONFIG_BYTES) == model.now


def test_the_whole_space_is_written_at_once(device: DeviceUnderTest, model: Model) -> None:
    for value in (b"\x7f", b"\xff", b"\0"):
        device.function.write_config(0, value * CONFIG_BYTES)
        model.write(0, value * CONFIG_BYTES)
        assert device.function.read_config(0, CONFIG_BYTES) == model.now


def test_a_capability_is_read_and_written_over_its_ends(device: DeviceUnderTest, model: Model) -> None:
    """Every place and length around MSI-X, the last capability: nothing beside it is touched or read."""
    for offset in range(pci.MSIX_POSITION - 4, pci.MSIX_POSITION + 14):
        for size in range(1, 20):
            device.function.write_config(offset, b"\x41" * size)
            model.write(offset, b"\x41" * size)
            assert device.function.read_config(offset, size) == model.now[offset : offset + size]


@pytest.mark.parametrize(
    ("offset", "data", "happens"),
    [
        (DEVICE_CONTROL + 1, "80", True),
        (DEVICE_CONTROL + 1, "a8", True),
        (DEVICE_CONTROL, "1080", True),
        (DEVICE_CONTROL, "10a80000", True),
        (DEVICE_CONTROL + 1, "800000", True),
        (DEVICE_CONTROL - 4, "0000000000800000", True),
        (DEVICE_CONTROL, "80", False),
        (DEVICE_CONTROL, "ff7f", False),
        (DEVICE_CONTROL + 1, "7f", False),
        (DEVICE_STATUS, "ffff", False),
        (DEVICE_CONTROL - 1, "8080", False),
    ],
)
def test_function_level_reset_by_any_width(device: DeviceUnderTest, offset: int, data: str, happens: bool) -> None:
    device.function.write_bar(Bar.REGISTERS, Register.AQA, 4, 0x00070007)
    device.function.write_config(offset, bytes.fromhex(data))
    assert device.function.read_bar(Bar.REGISTERS, Register.AQA, 4) == (0 if happens else 0x00070007)
    assert device.device.status()["counters"]["resets"] == happens


def dirty(function: PciFunction) -> None:
    """Every writable bit changed."""
    for at, bits in WRITABLE.items():
        before = function.read_config(at, len(bits))
        function.write_config(at, bytes(old ^ bit for old, bit in zip(before, bits, strict=True)))
        assert function.read_config(at, len(bits)) != before


def level_reset(function: PciFunction) -> None:
    function.write_config(DEVICE_CONTROL + 1, b"\x80")


@pytest.mark.parametrize("reset", [VfioUserFunction.reset, level_reset], ids=["device", "function level"])
def test_a_reset_restores_the_state_at_power_on(
    device: DeviceUnderTest, model: Model, reset: Callable[[PciFunction], None]
) -> None:
    for _ in range(2):
        dirty(device.function)
        reset(device.function)
        assert device.function.read_config(0, CONFIG_BYTES) == model.power_on


@pytest.mark.parametrize("rest", [b"", b"\1"], ids=["between messages", "within one"])
def test_the_next_client_finds_the_state_at_power_on(socket_folder: Path, rest: bytes) -> None:
    with open_device("vfio-user", socket_folder) as device:
        power_on = device.function.read_config(0, CONFIG_BYTES)
        device.function.close()
        with RawClient(socket_folder / "f.sock") as client:
            for at, bits in WRITABLE.items():
                client.write(Region.CONFIG, at, bits)
            assert client.read(Region.CONFIG, 0, CONFIG_BYTES) != power_on
            client.send(rest)
        with VfioUserFunction(socket_folder / "f.sock", timeout_s=HANG_S) as following:
            assert following.read_config(0, CONFIG_BYTES) == power_on


@pytest.fixture
def context(socket_folder: Path) -> Iterator[vfu.Context]:
    """A context with the function's capabilities, run by a thread."""
    context = vfu.Context(str(socket_folder / "c"))
    for block in pci.capabilities(1):
        context.add_capability(block.data, block.position, extended=block.extended)
    context.realize()
    with owned(context):
        yield context


@pytest.mark.parametrize(("offset", "bits"), [(0x06, 0xF900), (DEVICE_STATUS, 0x000F)])
def test_bits_that_a_written_one_clears(context: vfu.Context, socket_folder: Path, offset: int, bits: int) -> None:
    """Set by the device; a 0 leaves them, and so do writes beside them."""
    with VfioUserFunction(socket_folder / "c", timeout_s=HANG_S) as function:
        always = int.from_bytes(function.read_config(offset, 2), "little")
        context.config_space[offset : offset + 2] = (always | bits).to_bytes(2, "little")
        left = bits
        for value, width, at in ((0, 4, offset - 2), (0, 2, offset), (bits ^ 0xFFFF, 2, offset)):
            function.write_config(at, value.to_bytes(width, "little"))
            assert int.from_bytes(function.read_config(offset, 2), "little") == always | left
        for bit in (bit for bit in range(16) if bits >> bit & 1):
            function.write_config(offset + bit // 8, bytes([1 << bit % 8]))
            left &= ~(1 << bit)
            assert int.from_bytes(function.read_config(offset, 2), "little") == always | left
        context.config_space[offset : offset + 2] = (always | bits).to_bytes(2, "little")
        function.write_config(offset - 2, b"\0\0\xff\xff")
        assert int.from_bytes(function.read_config(offset, 2), "little") == always


@pytest.mark.parametrize(("written", "state"), [(0, 0), (1, 3), (2, 3), (3, 3)])
def test_power_states_that_do_not_exist_are_not_entered(device: DeviceUnderTest, written: int, state: int) -> None:
    """No_Soft_Reset stays in all of them."""
    device.function.write_config(PMCSR, b"\x03")
    device.function.write_config(PMCSR, bytes([written]))
    assert device.function.read_config(PMCSR, 2) == bytes([0x08 | state, 0])
