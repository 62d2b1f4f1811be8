# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space as a client reads it, decoded by lspci (spec 01 §1, §14.9)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus.function import PciFunction
from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.pci import BAR_BYTES
from ihsm_abi.pci_config import BARS_OFFSET, COMMAND_OFFSET, CommandRegister
from support.devices import open_device
from support.polled import PolledDriver


@pytest.fixture
def function(socket_folder: Path) -> Iterator[PciFunction]:
    with open_device("vfio-user", socket_folder) as device:
        yield device.function


def lspci(config: bytes, folder: Path) -> str:
    """What `lspci -vvv` makes of a configuration space, as of an endpoint behind a root port."""
    dump = folder / "config"
    lines = (f"{at:02x}: {config[at : at + 16].hex(' ')}" for at in range(0, len(config), 16))
    dump.write_text("\n".join(["01:00.0 ihsm", *lines, ""]))
    command = ["lspci", "-F", str(dump), "-vvv", "-nn"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_lspci_decodes_everything(function: PciFunction, tmp_path: Path) -> None:
    text = lspci(function.read_config(0, function.config_bytes), tmp_path)
    assert not re.search(r"unknown|<\?>|access denied", text, re.IGNORECASE), text
    for expected in (
        "[1080]", "[1414:c003]", "(rev 01)", "Subsystem: Microsoft Corporation Device [1414:c003]",
        "Region 0: Memory at <unassigned> (64-bit, non-prefetchable)",
        "Region 2: Memory at <unassigned> (64-bit, non-prefetchable)",
        "Region 4: Memory at <unassigned> (64-bit, non-prefetchable)",
        "Capabilities: [40] Power Management version 3", "D0 NoSoftRst+ PME-Enable-",
        "Capabilities: [70] Express (v2) Endpoint", "FLReset+", "Speed 16GT/s, Width x8, ASPM not supported",
        "MaxReadReq 512 bytes", "Supported Link Speeds: 2.5-16GT/s", "Target Link Speed: 16GT/s",
        "Capabilities: [b0] MSI-X: Enable- Count=32 Masked-", "Vector table: BAR=4 offset=00000000",
        "PBA: BAR=4 offset=00000800",
        "Capabilities: [100 v1] Device Serial Number 11-22-33-44-55-66-77-88",
        "Capabilities: [110 v1] Data Object Exchange", "Capabilities: [130 v1]",
    ):  # fmt: skip
        assert expected in text, text


@pytest.mark.parametrize("bar", [0, 2, 4])
def test_bars_are_sized_as_one_page_of_64_bit_memory(function: PciFunction, bar: int) -> None:
    assert function.bar_bytes(bar) == BAR_BYTES
    assert function.bar_bytes(bar + 1) == 0
    register = BARS_OFFSET + 4 * bar
    function.write_config(register, b"\xff" * 4)
    function.write_config(register + 4, b"\xff" * 4)
    low, high = (int.from_bytes(function.read_config(at, 4), "little") for at in (register, register + 4))
    assert (low & 0xF, high << 32 | low & ~0xF) == (0x4, 2**64 - BAR_BYTES)


def test_bus_master_enable_is_counted_not_enforced(socket_folder: Path) -> None:
    with open_device("vfio-user", socket_folder) as device:
        driver = PolledDriver(device.function)
        for command, expected in ((0, 1), (CommandRegister.of(memory_space=1, bus_master=1), 1), (0, 2)):
            device.function.write_config(COMMAND_OFFSET, int(command).to_bytes(2, "little"))
            driver.enable()
            assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS
            assert device.device.status()["counters"]["bus_master_clear"] == expected
            driver.disable()
