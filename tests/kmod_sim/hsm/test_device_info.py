# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device information of the HSM node (spec 02 G)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from ihsm_abi.uapi import DEVICE_INFO, RESET_DEVICE, AbortType, ControllerState, Ioctl
from support.hsm_driver import BDF, Driver
from support.hsm_program import program
from support.ioctls import Caller, structure
from support.user_pages import GONE, PAGE, READ_ONLY, USABLE, UserPages

Covers = Callable[..., None]
CALLERS = 0xEE
COPIED = 175


@pytest.fixture
def caller(driver: Driver) -> Caller:
    return program(driver)


def request(argsz: int = DEVICE_INFO.itemsize) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    record = np.full(DEVICE_INFO.itemsize, CALLERS, np.uint8).view(DEVICE_INFO)
    record["argsz"] = argsz
    return record


def refusal(caller: Caller, argument: int | np.ndarray[tuple[int], np.dtype[np.void]]) -> int:
    return caller.call(Ioctl.GET_DEV_INFO, argument).error


def test_each_field(driver: Driver, caller: Caller, covers: Covers) -> None:
    result = caller.call(Ioctl.GET_DEV_INFO, request())
    identity = driver.controller.identity
    assert identity is not None
    assert result.error == 0
    raw = result.answer.tobytes()
    assert raw[:4] == DEVICE_INFO.itemsize.to_bytes(4, "little")
    assert raw[4:6] == int(identity["ctrl_id"]).to_bytes(2, "little")
    name = BDF.encode() + b"\0"
    assert raw[6:39] == name + bytes([CALLERS]) * (33 - len(name))
    assert raw[39:72] == identity["sn"].ljust(33, b"\0")
    assert raw[72:77] == bytes(5)
    assert raw[77:110] == identity["fr"].ljust(33, b"\0")
    assert raw[110:126] == b"3.2.0".ljust(15, b"\0") + bytes([CALLERS])
    assert raw[126:143] == bytes([CALLERS]) * 17
    assert raw[143:175] == driver.controller.entropy
    assert raw[175] == CALLERS, "175 bytes are copied"
    covers("kmod/A.4/dev-info")


def test_175_bytes_suffice(caller: Caller) -> None:
    pages = UserPages(USABLE, GONE)
    assert refusal(caller, pages.put(PAGE - COPIED, request().tobytes()[:COPIED])) == 0


def test_entropy_is_of_the_driver_and_new_after_a_reset(caller: Caller, driver: Driver, covers: Covers) -> None:
    def entropy(of: Caller) -> bytes:
        return of.call(Ioctl.GET_DEV_INFO, request()).answer["device_entropy"].tobytes()  # type: ignore[no-any-return]

    first = entropy(caller)
    assert any(first)
    assert entropy(program(driver)) == first
    assert caller.call(Ioctl.RESET, structure(RESET_DEVICE, abort_type=AbortType.L2_RESET)).error == 0
    second = entropy(caller)
    assert second != first
    driver.unbind()
    driver.bind()
    # The number that the reset took is the one that the unbind gave back (A.1).
    assert entropy(program(driver, node="/dev/azihsm1")) not in (first, second)
    covers("kmod/I/15")


def test_checks_in_their_order(caller: Caller, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    short, gone = request(DEVICE_INFO.itemsize - 1), UserPages(GONE)
    with monkeypatch.context() as patch:
        patch.setattr(driver.controller, "state", ControllerState.NOT_INITIALIZED)
        with monkeypatch.context() as both:
            both.setattr(driver.controller, "abort_in_progress", True)
            assert refusal(caller, gone.address) == errno.EAGAIN
        assert refusal(caller, gone.address) == errno.ENOTTY
    assert refusal(caller, gone.address) == errno.EFAULT
    assert refusal(caller, short) == errno.EINVAL
    assert short.tobytes() == request(DEVICE_INFO.itemsize - 1).tobytes(), "untouched"


def test_an_answer_that_cannot_be_written(caller: Caller) -> None:
    pages = UserPages(READ_ONLY)
    assert refusal(caller, pages.put(0, request().tobytes())) == errno.EFAULT
