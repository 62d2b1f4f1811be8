# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults for those who test: set on whatever a device is reached by, waited for, and gone with the block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ihsm import Hsm
from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    CommandSeenError,
    DeviceNotFoundError,
    FaultNotFoundError,
    FaultNotHitError,
)
from ihsm.testing import DeviceFaults, faulty_device
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from support.process import serve
from support.waiting import HANG_S, ended

ALL_ONES = 0xFFFF_FFFF
NO_TIME_S = 0.0
"""Of a wait that is about what it says at its end; nothing can come."""


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice() as device:
        yield device


def csts(function: Any) -> int:
    return int(function.read_bar(Bar.REGISTERS, Register.CSTS, 4))


def test_a_fault_is_hit_and_ends_with_the_block(device: EmbeddedDevice) -> None:
    with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function:
        with DeviceFaults(device) as faults:
            hit = faults.add("all-ones", register=Register.CSTS, nth=2, count=2)
            assert repr(hit) == f"<fault {hit.number}: all-ones register=CSTS nth=2 count=2>"
            assert (hit.hits, hit.left) == (0, 2)
            assert [csts(function) for _ in range(4)] == [0, ALL_ONES, ALL_ONES, 0]
            assert hit.wait(hits=2, timeout_s=HANG_S) == 2
            assert (hit.hits, hit.left) == (2, 0)
            faults.add("all-ones")
            assert csts(function) == ALL_ONES
        assert csts(function) == 0
    with pytest.raises(FaultNotFoundError):
        hit.wait()
    with pytest.raises(FaultNotFoundError):
        _ = hit.hits


def test_a_thread_waits_for_a_hit(device: EmbeddedDevice) -> None:
    seen = []
    with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function, DeviceFaults(device) as faults:
        hit = faults.add("all-ones", register="CSTS")
        thread = threading.Thread(target=lambda: seen.append(hit.wait(timeout_s=HANG_S)))
        thread.start()
        csts(function)
        ended(thread)
    assert seen == [1]


def test_a_hit_that_does_not_come(device: EmbeddedDevice) -> None:
    with DeviceFaults(device) as faults:
        hit = faults.add("lose-interrupt", vector=3)
        with pytest.raises(FaultNotHitError, match="0 of 1 hits within 0 s") as caught:
            hit.wait(timeout_s=NO_TIME_S)
        assert isinstance(caught.value, TimeoutError)


def test_faults_of_others_stay(device: EmbeddedDevice) -> None:
    with ControlClient(device.socket_path) as client, DeviceFaults(device) as others:
        kept = others.add("hold-command", queue=1)
        with DeviceFaults(device) as faults:
            first, second = faults.add("hold-command", queue=1), faults.add("hold-command", queue=1)
            first.clear()
            first.clear()
            assert [entry.number for entry in client.faults()] == [kept.number, second.number]
        assert [entry.number for entry in client.faults()] == [kept.number]
    with DeviceFaults(device) as faults, ControlClient(device.socket_path) as client:
        faults.add("hold-command")
        faults.clear()
        assert client.faults() == []


def test_whatever_a_device_is_reached_by(device: EmbeddedDevice) -> None:
    path = device.socket_path
    assert {DeviceFaults(way).socket_path for way in (device, path, str(path), f"vfio-user:{path}")} == {str(path)}
    with VfioUserFunction(path, timeout_s=HANG_S) as function:
        assert DeviceFaults(function).socket_path == str(path)
        with Controller(function) as controller:
            assert DeviceFaults(controller).socket_path == str(path)


def test_the_device_of_an_hsm() -> None:
    with Hsm.private() as hsm, DeviceFaults(hsm) as faults:
        hit = faults.add("delay-completion", operation="EccGenerateKeyPair", ms=1)
        hsm.generate("web", "p256", usage="sign")
        assert hit.wait(timeout_s=HANG_S) == 1


def test_each_function_of_a_process_has_its_own(socket_folder: Path) -> None:
    with (
        serve("--socket", str(socket_folder / "s"), "--count", "2") as server,
        DeviceFaults(server.paths[0]) as faults,
    ):
        faults.add("all-ones")
        for path, value in zip(server.paths, (ALL_ONES, 0), strict=True):
            with VfioUserFunction(path, timeout_s=HANG_S) as function:
                assert csts(function) == value
        assert [len(server.status(index)["faults"]) for index in range(2)] == [1, 0]


def test_a_device_that_ends_takes_its_faults_with_it(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "s")) as server, DeviceFaults(server.paths[0]) as faults:
        for _ in range(2):
            faults.add("never-ready")
        assert server.stop() == 0


def identify(device: EmbeddedDevice) -> None:
    """Have the device see admin commands."""
    with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function, Controller(function):
        pass


def test_a_command_that_must_not_be_seen_fails_the_block(device: EmbeddedDevice) -> None:
    def run() -> None:
        with DeviceFaults(device) as faults:
            faults.add("never", queue=0, opcode=6)
            faults.add("never", queue=1)
            faults.add("never", queue=0, opcode=6, nth=2)
            identify(device)

    with pytest.raises(CommandSeenError, match="never queue=0 opcode=6: such a command came") as caught:
        run()
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value).count("fault ") == 1
    with ControlClient(device.socket_path) as client:
        assert client.faults() == [], "and all have ended"


def test_another_failure_stays_and_gets_a_note(device: EmbeddedDevice) -> None:
    def run() -> None:
        with DeviceFaults(device) as faults:
            faults.add("never", queue=0)
            identify(device)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run()
    (note,) = caught.value.__notes__
    assert "such a command came" in note


def test_one_that_is_not_seen_fails_nothing(device: EmbeddedDevice) -> None:
    with DeviceFaults(device) as faults:
        never = faults.add("never", queue=0, opcode=0xC3)
        identify(device)
        assert never.wait(timeout_s=NO_TIME_S) == 0


def test_what_a_device_is_wrong_in_from_its_start() -> None:
    wrong = {"action": "wrong-identify", "field": "ctrl_id", "value": 77}, {"action": "all-ones", "register": "FWCAP"}
    with faulty_device(*wrong, arguments=["--resources", "2"]) as device, DeviceFaults(device) as faults:
        assert [str(standing.fault.action) for standing in faults.standing()] == ["wrong-identify", "all-ones"]
        with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function:
            assert function.read_bar(Bar.REGISTERS, Register.FWCAP, 4) == ALL_ONES
            with Controller(function) as controller:
                assert controller.identity.controller_id == 77
    for bad in ({"action": "wrong-identify", "field": "ctrl_id"}, {"field": "ctrl_id"}):
        with pytest.raises(ArgumentError), faulty_device(bad):
            pass


@pytest.mark.parametrize(
    ("action", "values", "argument", "text"),
    [
        ("wrong-cap-to", {"to": 1}, "action", "from the start alone: faulty_device"),
        ("dance", {}, "action", "drop-completion"),
        ("drop-completion", {"vector": 1}, "vector", "takes only queue"),
        ("drop-completion", {"queue": "one"}, "queue", "no integer"),
        ("drop-completion", {"operation": object()}, "operation", "no integer"),
        ("delay-completion", {}, "ms", "needs it"),
        ("late-ready", {}, "parameters", "reads or ms"),
        (None, {}, "action", "None is none of"),
    ],
)
def test_wrong_arguments_are_named(
    device: EmbeddedDevice, action: Any, values: dict[str, Any], argument: str, text: str
) -> None:
    with DeviceFaults(device) as faults, ControlClient(device.socket_path) as client:
        with pytest.raises(ArgumentError, match=text) as caught:
            faults.add(action, **values)
        assert caught.value.argument == argument
        assert client.faults() == []


def test_where_no_faults_can_be(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError):
        DeviceFaults(tmp_path / "none.sock")
    with pytest.raises(DeviceNotFoundError, match="no control socket"):
        DeviceFaults("pci:0000:00:04.0")
    with pytest.raises(ArgumentTypeError):
        DeviceFaults(3)  # type: ignore[arg-type]
