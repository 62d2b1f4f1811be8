# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Physical functions: the management node and its ioctls, level 2 by permission (spec 01 §1.1, §8.3, §10, 02 A.12)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.uapi import DEVICE_INFO, RES_CNT, VF_COUNT, AbortType, ControllerState, Ioctl
from ihsm_kmod.hsm.admin import AdminCommands
from ihsm_kmod.kernel.errors import Errno
from support.bent_function import BentFunction
from support.hsm_driver import ADMIN_TIMEOUT_S, Driver, driver_on
from support.hsm_program import program, reset
from support.ioctls import KEPT, Caller, Script, reset_command
from support.physical_function import PhysicalFunction
from support.process import ServeProcess
from support.user_pages import GONE, READ_ONLY, USABLE, UserPages
from support.waiting import HANG_S

Covers = Callable[..., None]
VFS = 3
NODE = "/dev/azihsm-mgmt0"
SMALLEST = {
    Ioctl.SET_RES_CNT: RES_CNT,
    Ioctl.GET_RES_CNT: RES_CNT,
    Ioctl.GET_VF_COUNT: VF_COUNT,
    Ioctl.MGMT_GET_DEV_INFO: DEVICE_INFO,
}
ROW = {Ioctl.SET_RES_CNT: "res-cnt", Ioctl.GET_RES_CNT: "res-cnt", Ioctl.GET_VF_COUNT: "vf-count"}


@pytest.fixture
def physical(server: ServeProcess) -> Iterator[Driver]:
    """The driver on a PF with VFS virtual functions."""
    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(PhysicalFunction(function, VFS)) as driver,
    ):
        yield driver


@pytest.fixture
def manager(physical: Driver) -> Iterator[Caller]:
    """A program with the management node open."""
    process = physical.machine.process()
    yield Caller(process, NODE, physical.controller, Script())
    process.exit()


def res_cnt(vf_idx: int = 0, res_cnt: int = 0, argsz: int = 12) -> np.ndarray:
    return np.array([(argsz, vf_idx, res_cnt, 0xEEEEEEEE)], RES_CNT)


@pytest.mark.parametrize("vfs", [None, 0], ids=["VF", "PF without VFs"])
def test_others_have_no_management_node(server: ServeProcess, vfs: int | None) -> None:
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
        bent = BentFunction(function) if vfs is None else PhysicalFunction(function, vfs)
        with driver_on(bent) as driver:
            assert driver.probe_error == 0
            assert not driver.machine.kernel.vfs.exists(NODE)
            assert driver.controller.is_pf == (vfs is not None)


def test_node_goes_with_the_function(physical: Driver) -> None:
    assert physical.machine.kernel.vfs.exists("/dev/azihsm0")
    assert physical.machine.kernel.vfs.exists(NODE)
    physical.unbind()
    assert not physical.machine.kernel.vfs.exists(NODE)


@pytest.mark.parametrize("ioctl", SMALLEST)
def test_memory_that_is_not_there(manager: Caller, covers: Covers, ioctl: Ioctl) -> None:
    assert manager.call(ioctl, UserPages(GONE)).error == errno.EFAULT
    pages = UserPages(READ_ONLY)
    pages.put(0, SMALLEST[ioctl].itemsize.to_bytes(4, "little"))
    assert manager.call(ioctl, pages.address).error == errno.EFAULT
    covers(f"kmod/A.12/1-{ROW.get(ioctl, 'dev-info')}")


@pytest.mark.parametrize("ioctl", SMALLEST)
def test_structure_that_is_too_small(manager: Caller, covers: Covers, ioctl: Ioctl) -> None:
    buffer = np.full(SMALLEST[ioctl].itemsize, KEPT, np.uint8)
    buffer[:4].view("<u4")[:] = len(buffer) - 1
    before = buffer.tobytes()
    assert manager.call(ioctl, buffer).error == errno.EINVAL
    assert buffer.tobytes() == before
    covers(f"kmod/A.12/2-{ROW.get(ioctl, 'dev-info')}")


@pytest.mark.parametrize("ioctl", [Ioctl.SET_RES_CNT, Ioctl.GET_RES_CNT])
@pytest.mark.parametrize("vf_idx", [VFS, 0xFFFF])
def test_vf_that_there_is_not(manager: Caller, covers: Covers, ioctl: Ioctl, vf_idx: int) -> None:
    result = manager.call(ioctl, res_cnt(vf_idx))
    assert (result.error, result.answer["status"]) == (errno.EINVAL, 2)
    covers("kmod/A.12/4")


def test_device_that_refuses(physical: Driver, manager: Caller, covers: Covers) -> None:
    """The device behind is a VF, from which it takes no SET_RES_CNT."""
    result = manager.call(Ioctl.SET_RES_CNT, res_cnt(0, 1))
    assert (result.error, result.answer["status"]) == (errno.EFAULT, 4)
    physical.function.refused.add(AdminOpcode.GET_RES_CNT)
    result = manager.call(Ioctl.GET_RES_CNT, res_cnt(0))
    physical.function.refused.clear()
    assert (result.error, result.answer["status"]) == (errno.EFAULT, 7)
    covers("kmod/A.12/5-set", "kmod/A.12/5-get")


def test_count_is_set(manager: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    sent = []
    monkeypatch.setattr(AdminCommands, "set_resource_count", lambda _, ctrl_id, count: sent.append((ctrl_id, count)))
    result = manager.call(Ioctl.SET_RES_CNT, res_cnt(2, 5, argsz=4096))
    assert (result.error, result.answer.tolist()) == (0, (4096, 2, 5, 0))
    assert sent == [(3, 5)]
    covers("kmod/A.12/6-set", "kmod/A.4/set-res-cnt")


def test_count_is_told(manager: Caller, covers: Covers) -> None:
    """VF 0 is controller 1, which is what the served function says of itself: it has one resource."""
    assert manager.call(Ioctl.GET_RES_CNT, res_cnt(0, 77)).answer.tolist() == (12, 0, 1, 0)
    assert manager.call(Ioctl.GET_RES_CNT, res_cnt(1, 77)).answer.tolist() == (12, 1, 0, 0)
    covers("kmod/A.12/6-get", "kmod/A.4/get-res-cnt")


def test_vf_count(manager: Caller, covers: Covers) -> None:
    pages = UserPages(USABLE)
    address = pages.put(0, (8).to_bytes(4, "little") + bytes([KEPT] * 4))
    assert manager.call(Ioctl.GET_VF_COUNT, address).error == 0
    assert pages.get(0, 8) == bytes([8, 0, 0, 0, VFS, 0, KEPT, KEPT])
    covers("kmod/A.12/6-vf-count", "kmod/A.4/vf-count")


def test_device_information(physical: Driver, manager: Caller, covers: Covers) -> None:
    buffer = np.full(176, KEPT, np.uint8)
    buffer[:4].view("<u4")[:] = 176
    assert manager.call(Ioctl.MGMT_GET_DEV_INFO, buffer).error == 0
    info = buffer.view(DEVICE_INFO)[0]
    assert (info["argsz"], info["id"], buffer[175]) == (176, 1, KEPT)
    assert info["pci_info"].tobytes().split(b"\0")[0] == b"0000:00:04.0"
    assert info["driver_rev"].tobytes() == b"3.2.0" + bytes(10) + bytes([KEPT])
    assert info["device_entropy"].tobytes() == physical.controller.entropy
    covers("kmod/A.12/6-dev-info", "kmod/A.4/mgmt-dev-info")


def test_device_information_of_a_controller_that_is_down(physical: Driver, manager: Caller) -> None:
    """The management node looks at no state; nor does who has looked at it before a reset of somebody else's began."""
    physical.function.refused = {AdminOpcode.IDENTIFY}
    assert reset(program(physical)).error == errno.EFAULT
    assert physical.controller.state is ControllerState.NOT_INITIALIZED
    buffer = np.full(176, KEPT, np.uint8)
    buffer[:4].view("<u4")[:] = 176
    assert manager.call(Ioctl.MGMT_GET_DEV_INFO, buffer).error == 0
    assert buffer.view(DEVICE_INFO)[0]["id"] == 1
    assert physical.machine.kernel.crashed is None


def test_device_information_before_the_controller_is_identified(physical: Driver) -> None:
    """The node is there before the device has been asked anything."""
    physical.unbind()
    physical.function.unanswered = {AdminOpcode.IDENTIFY}
    bind = physical.machine.kernel.thread(physical.bind, "bash")
    physical.clock.await_timer(ADMIN_TIMEOUT_S)
    early = Caller(physical.machine.process(), NODE, physical.controller, Script())
    buffer = np.full(176, KEPT, np.uint8)
    buffer[:4].view("<u4")[:] = 176
    before = buffer.tobytes()
    assert early.call(Ioctl.MGMT_GET_DEV_INFO, buffer).error == errno.ENOTTY
    assert buffer.tobytes() == before
    physical.clock.advance(ADMIN_TIMEOUT_S)
    with pytest.raises(Errno, match="EAGAIN"):
        bind.join()
    early.process.exit()


def test_everybody_who_has_it_open_may_use_it(manager: Caller, covers: Covers) -> None:
    child = manager.process.fork()
    child.ioctl(manager.fd, Ioctl.GET_RES_CNT, res_cnt(0))
    child.exit()
    covers("kmod/A.12/no-owner")


OTHER = [ioctl.value for ioctl in Ioctl if ioctl not in SMALLEST]
WRONG_SIZE, WRONG_DIRECTION = Ioctl.SET_RES_CNT ^ 1 << 16, Ioctl.GET_VF_COUNT ^ 1 << 30


@pytest.mark.parametrize("number", [*OTHER, WRONG_SIZE, WRONG_DIRECTION, 0], ids=hex)
def test_other_numbers(manager: Caller, covers: Covers, number: int) -> None:
    buffer = np.full(400, KEPT, np.uint8)
    assert manager.call(number, buffer).error == errno.EBADRQC
    assert {*buffer.tolist()} == {KEPT}
    covers("kmod/A.4/hsm-number-on-mgmt", "kmod/A.4/wrong-size", "kmod/A.4/unknown")


@pytest.mark.parametrize("kind", [AbortType.L2_NSSR, AbortType.L2_RESET])
def test_reset_where_level_2_is_off(server: ServeProcess, covers: Covers, kind: AbortType) -> None:
    """A physical function reports success and does nothing."""
    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(PhysicalFunction(function, 0), pf_lvl2_abort_enabled=False) as driver,
    ):
        process = driver.machine.process()
        caller = Caller(process, "/dev/azihsm0", driver.controller, Script())
        entropy = driver.controller.entropy
        driver.function.take()
        result = caller.call(Ioctl.RESET, reset_command(kind))
        assert (result.error, result.value, result.answer["abort_sts"]) == (0, 0, 0)
        assert driver.function.take() == []
        assert driver.controller.entropy == entropy
        process.exit()
    covers("kmod/A.10/6-pf")
