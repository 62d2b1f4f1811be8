# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that answer nonsense: bring-up ends with a typed error."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction, vfio_abi
from ihsm.bus.vfio_user_wire import REGION_ACCESS, Command
from ihsm.driver import Controller, DriverOptions
from ihsm.errors import (
    ControllerFatalError,
    ControllerTimeoutError,
    DeviceGoneError,
    IhsmError,
    UnsupportedDeviceError,
)
from ihsm_abi.registers import Cap, Csts, Register
from support.scripted_server import Answer, honest, reply, scripted_server
from support.waiting import HANG_S

IDS = bytes.fromhex("141403c0")


def device(registers: dict[int, int], default: int = 0) -> Answer:
    """A function with the right ids and BARs whose registers read as told and take no writes."""

    def answer(message_id: int, command: int, payload: bytes) -> bytes:
        if command == Command.DEVICE_GET_REGION_INFO:
            index = vfio_abi.REGION_INFO.unpack_from(payload)[2]
            size = 4096 if index in (0, 2, 4, vfio_abi.Region.CONFIG) else 0
            return reply(message_id, command, vfio_abi.REGION_INFO.pack(32, 3, index, 0, size, 0))
        if command == Command.REGION_READ:
            offset, region, count = REGION_ACCESS.unpack_from(payload)
            value = registers.get(offset, default) if region == 0 else default
            data = IDS[offset : offset + count] if region == vfio_abi.Region.CONFIG and offset < 4 else None
            data = data or (value & (1 << 8 * count) - 1).to_bytes(count, "little")
            return reply(message_id, command, payload[: REGION_ACCESS.size] + data)
        return honest(message_id, command, payload)

    return answer


def bring_up(folder: Path, answer: Answer) -> None:
    with scripted_server(folder, answer) as path:
        Controller(VfioUserFunction(path, timeout_s=HANG_S), DriverOptions(interrupts=False)).close()


@pytest.mark.parametrize(
    ("registers", "error"),
    [
        ({Register.CSTS: 0xFFFFFFFF}, DeviceGoneError),
        ({}, ControllerTimeoutError),
        ({Register.CSTS: Csts.of(cfs=1)}, ControllerFatalError),
        ({Register.CSTS: Csts.of(rdy=1)}, ControllerTimeoutError),  # never gets rid of RDY
    ],
)
def test_registers_that_never_become_right(tmp_path: Path, registers: dict[int, int], error: type[IhsmError]) -> None:
    with pytest.raises(error):
        bring_up(tmp_path, device({Register.CAP: Cap.of(to=0), **registers}))


def test_no_device_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedDeviceError, match="5a5a:5a5a"):
        bring_up(tmp_path, honest)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_random_registers(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)

    def answer(message_id: int, command: int, payload: bytes) -> bytes:
        values = {register: source.getrandbits(64) for register in Register}
        values[Register.CAP] = Cap(values[Register.CAP]).replace(to=0)
        return device(values)(message_id, command, payload)

    # An Identify that nobody answers would be waited for 30 s; the property is about registers.
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(IhsmError):
        patch.setattr("ihsm.driver.admin_queue.ADMIN_TIMEOUT_S", 0.1)
        bring_up(tmp_path, answer)
