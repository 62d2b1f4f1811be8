# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device that is gone, for a while or for good: its registers read as ones, or nobody is there (spec 01 §2.2, §8)."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.registers import Register
from ihsm_abi.uapi import GENERIC_IOCTL, AbortType, ControllerState
from ihsm_kmod.kernel.errors import Errno
from support.claims import Covers
from support.flow import ABORTED, LOST, Flow, answers, flow_on
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF, COMMAND_TIMEOUT_S
from support.hsm_program import reset
from support.ioctls import kept
from support.process import ServeProcess, serve


@pytest.fixture
def mortal(socket_folder: Path) -> Iterator[ServeProcess]:
    """A server that a test may end."""
    with serve("--socket", str(socket_folder / "s")) as server:
        yield server


@pytest.fixture
def doomed(mortal: ServeProcess) -> Iterator[Flow]:
    """The driver on it."""
    with flow_on(mortal) as flow:
        yield flow
    assert [str(report) for report in flow.driver.reports] == []


def test_a_command_of_a_device_that_never_returns(flow: Flow, covers: Covers) -> None:
    """What level 1 reads has CFS set; level 2 fails with ENODEV, and says so in the log alone."""
    flow.faults.add("all-ones")
    with flow.in_vain():
        lost = flow.start_ask()
        flow.time_out()
        assert answers(lost) == [ABORTED]
    assert flow.driver.says("the device is gone")
    assert flow.admin() == []
    flow.is_bound_again()
    covers("fault/all-ones")


def test_it_goes_while_it_has_a_command(flow: Flow) -> None:
    """The one that it has, and the one that comes then."""
    lost = [flow.lose("hold-command")]
    flow.faults.add("all-ones")
    lost.append(flow.start_ask())
    with flow.in_vain():
        flow.time_out(2)
        assert answers(*lost) == [ABORTED] * 2
    flow.is_bound_again()


def test_it_was_gone_when_the_command_was_sent(flow: Flow) -> None:
    """The doorbell was lost, no more: level 1 is enough."""
    gone = flow.faults.add("all-ones")
    lost = flow.start_ask()
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    flow.driver.function.inner.read_bar(0, Register.VS, 4)  # behind the doorbell, which is posted
    gone.clear()
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert flow.counter("global/total_lvl1_aborts") == 1
    flow.works()


def test_it_is_back_for_level_2(flow: Flow) -> None:
    lost = flow.lose()
    flow.faults.add("all-ones", count=1)
    with flow.anew():
        flow.time_out()
        assert answers(lost) == [ABORTED]


def test_the_server_is_killed_under_a_command(doomed: Flow, mortal: ServeProcess) -> None:
    lost = [doomed.lose("hold-command"), doomed.lose()]
    aes = doomed.lose_aes()
    doomed.driver.clock.await_timer(COMMAND_TIMEOUT_S, 3)
    mortal.stop(signal.SIGKILL)
    with doomed.in_vain():
        doomed.time_out(3)
        assert answers(*lost) == [ABORTED] * 2
        assert aes.join() == LOST
    doomed.driver.unbind()
    with pytest.raises(Errno) as caught:
        doomed.driver.bind()
    assert caught.value.errno == errno.EIO, "it cannot be enabled"


@pytest.mark.parametrize("kind", [AbortType.L2_NSSR, AbortType.L2_RESET])
def test_a_reset_of_a_server_that_was_killed(doomed: Flow, mortal: ServeProcess, kind: AbortType) -> None:
    assert doomed.ask().error == 0
    mortal.stop(signal.SIGKILL)
    with doomed.in_vain():
        done = reset(doomed.caller, kind)
        assert (done.error, done.answer["abort_sts"]) == (errno.ENODEV, 3)


def test_a_server_that_ends_by_itself(doomed: Flow, mortal: ServeProcess) -> None:
    mortal.stop(signal.SIGTERM)
    with doomed.in_vain():
        lost = doomed.start_ask()
        doomed.time_out()
        assert answers(lost) == [ABORTED]


def test_unbind_when_the_server_was_killed(doomed: Flow, mortal: ServeProcess) -> None:
    """Each DELETE costs 30 s; then everything is given back."""
    mortal.stop(signal.SIGKILL)
    removal = doomed.driver.machine.kernel.thread(doomed.driver.unbind, "bash")
    for _ in range(6):
        doomed.driver.clock.expire(ADMIN_TIMEOUT_S)
    removal.join()
    assert doomed.driver.says("disable failed: ENODEV")
    assert doomed.driver.machine.kernel.vfs.listdir("/dev") == []
    assert doomed.driver.machine.kernel.pci.device(BDF).driver is None


def test_the_server_is_killed_under_an_unbind(doomed: Flow, mortal: ServeProcess) -> None:
    hit = doomed.on_admin("hold-command", AdminOpcode.DELETE_SQ, nth=2)
    removal = doomed.driver.machine.kernel.thread(doomed.driver.unbind, "bash")
    hit.wait()
    mortal.stop(signal.SIGKILL)
    for _ in range(4):
        doomed.driver.clock.expire(ADMIN_TIMEOUT_S)
    removal.join()
    assert doomed.driver.machine.kernel.vfs.listdir("/dev") == []


def test_a_device_that_is_pulled_out_under_a_command(flow: Flow) -> None:
    lost = flow.lose("hold-command")
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    kernel = flow.driver.machine.kernel
    controller = flow.driver.controller
    removal = kernel.thread(lambda: kernel.pci.remove(BDF), "bash")
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert answers(lost) == [(kept("extended_status", GENERIC_IOCTL), errno.EAGAIN)], "nobody is there to recover"
    for _ in range(5):
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    removal.join()
    assert controller.state is ControllerState.NOT_INITIALIZED
    assert kernel.vfs.listdir("/dev") == []
