# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The counters of a driver built with test hooks (spec 02 A.11)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.uapi import TEST_HOOKS, AbortType, Ioctl
from support.hsm_driver import Driver, driver_on
from support.ioctls import KEPT, Caller, Script, hsm_cqe, reset_command
from support.process import ServeProcess
from support.user_pages import GONE, READ_ONLY, UserPages
from support.waiting import HANG_S

Covers = Callable[..., None]


@pytest.fixture
def hooked(server: ServeProcess) -> Iterator[Driver]:
    """A driver with test hooks."""
    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(function, test_hooks=True) as driver,
    ):
        yield driver


@pytest.fixture
def caller(hooked: Driver) -> Iterator[Caller]:
    """A program with the node open, on the device."""
    process = hooked.machine.process()
    yield Caller(process, "/dev/azihsm0", hooked.controller, Script())
    process.exit()


def counters(caller: Caller) -> list[int]:
    """What the ioctl says: abort in progress, aborts of both levels, foreign calls, flushes, foreign releases."""
    result = caller.call(Ioctl.GET_TEST_HOOKS, np.full(40, KEPT, np.uint8).view(TEST_HOOKS))
    assert (result.error, result.value) == (0, 0)
    return [int(value) for value in result.answer]


def test_memory_that_is_not_there(caller: Caller, covers: Covers) -> None:
    assert caller.call(Ioctl.GET_TEST_HOOKS, UserPages(GONE)).error == errno.EFAULT
    covers("kmod/A.11/copy-in")
    assert caller.call(Ioctl.GET_TEST_HOOKS, UserPages(READ_ONLY)).error == errno.EFAULT
    covers("kmod/A.11/copy-out", "kmod/A.4/test-hooks-built")


def test_values(caller: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    assert counters(caller) == [0, 0, 0, 0, 0, 0]
    child = caller.process.fork()
    with pytest.raises(PermissionError):
        child.ioctl(caller.fd, Ioctl.GET_TEST_HOOKS, 0)
    child.exit()
    other = caller.reopen()
    with monkeypatch.context() as patch:
        patch.setattr(caller.controller, "execute", caller.script)
        other.open_session()
        other.script.complete(hsm_cqe())
        other.process.close(other.fd)
    foreign = caller.reopen()
    heir = caller.process.fork()
    caller.process.close(foreign.fd)
    heir.exit()
    monkeypatch.setattr(caller.controller, "abort_in_progress", True)
    monkeypatch.setattr(caller.controller.counters, "total_lvl1_aborts", 7)
    assert counters(caller) == [1, 7, 0, 1, 1, 1]
    covers("kmod/A.11/values")


def test_counters_begin_anew_with_the_controller(hooked: Driver, caller: Caller, covers: Covers) -> None:
    child = caller.process.fork()
    with pytest.raises(PermissionError):
        child.ioctl(caller.fd, Ioctl.GET_TEST_HOOKS, 0)
    child.exit()
    assert caller.call(Ioctl.RESET, reset_command(AbortType.L2_RESET)).error == 0
    assert counters(caller) == [0, 0, 0, 0, 0, 0]
    covers("kmod/A.11/zeroed")
