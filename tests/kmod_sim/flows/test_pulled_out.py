# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function that is pulled out, and back as at power-on (spec 01 §2.2, §13)."""

from __future__ import annotations

import errno

import pytest

from ihsm_abi.pci import VENDOR_ID, Bar
from ihsm_abi.registers import GONE, Register
from ihsm_kmod.kernel.errors import Errno
from support.claims import Covers
from support.flow import ABORTED, Flow, answers
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S
from support.waiting import HANG_S


def test_under_a_command(flow: Flow, covers: Covers) -> None:
    """The driver finds a device that is gone; when it is there again, another bind works."""
    lost = [flow.lose("hold-command"), flow.lose()]
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S, 2)
    flow.faults.add("remove-function").wait()
    with flow.in_vain():
        flow.time_out(2)
        assert answers(*lost) == [ABORTED] * 2
    assert flow.driver.says("the device is gone")
    flow.is_bound_again()
    covers("fault/remove-function")


def test_there_is_nothing_of_it(flow: Flow) -> None:
    flow.driver.unbind()
    function = flow.driver.function.inner
    gone = flow.faults.add("remove-function")
    gone.wait()
    assert function.read_config(0, 4) == b"\xff" * 4
    assert function.read_bar(Bar.REGISTERS, Register.CSTS, 4) == GONE
    assert function.read_bar(Bar.MSIX, 0, 4) == GONE
    function.write_config(4, b"\6\0")
    function.write_bar(Bar.REGISTERS, Register.AQA, 4, 0x000F000F)
    gone.clear()
    assert int.from_bytes(function.read_config(0, 2), "little") == VENDOR_ID
    assert function.read_config(4, 2) == b"\0\0", "as at power-on"
    assert function.read_bar(Bar.REGISTERS, Register.AQA, 4) == 0
    assert function.read_bar(Bar.REGISTERS, Register.CC, 4) == 0
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.works()


def test_a_bind_finds_nobody(flow: Flow) -> None:
    flow.driver.unbind()
    flow.faults.add("remove-function").wait()
    with pytest.raises(Errno) as caught:
        flow.driver.bind()
    assert caught.value.errno == errno.ENODEV
    flow.faults.clear()
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.works()


def test_an_unbind_ends(flow: Flow) -> None:
    """Each DELETE costs 30 s."""
    flow.faults.add("remove-function").wait()
    removal = flow.driver.machine.kernel.thread(flow.driver.unbind, "bash")
    for _ in range(6):
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    removal.join()
    assert flow.driver.says("disable failed: ENODEV")
    flow.faults.clear()
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.works()


def test_it_is_back_before_anybody_looks(flow: Flow) -> None:
    """As a function level reset behind the driver's back: a command finds out, by its time-out."""
    flow.faults.add("remove-function").wait()
    flow.faults.clear()
    lost = flow.start_ask()
    with flow.anew():
        flow.time_out()
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
        assert lost.result(HANG_S).error == errno.EAGAIN
