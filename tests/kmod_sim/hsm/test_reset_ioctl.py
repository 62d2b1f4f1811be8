# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The reset ioctl against the table of its specification (02 A.10): its checks, and what it makes of an abort."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from ihsm_abi.uapi import AbortResult, AbortType, ControllerState, Ioctl
from ihsm_kmod.kernel.errors import Errno
from support.ioctls import Caller, Result, kept, reset_command
from support.user_pages import GONE, READ_ONLY, UserPages

Covers = Callable[..., None]
SIZE = 272
CHECKS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "3": ({"state": ControllerState.INIT_IN_PROGRESS}, {}, 2),
    "4-zero": ({}, {"abort_type": 0}, 4),
    "4-above": ({}, {"abort_type": 3}, 4),
    "5": ({"abort_in_progress": True}, {}, 1),
}
"""In their order: attributes of the controller, fields of the command, `abort_sts`."""


def reset(caller: Caller, **fields: Any) -> Result:
    return caller.call(Ioctl.RESET, reset_command(**{"abort_type": AbortType.L2_RESET} | fields))


def failing(caller: Caller, monkeypatch: pytest.MonkeyPatch, *rows: str) -> Result:
    """Result of a reset that fails these checks."""
    command = {}
    with monkeypatch.context() as patch:
        for attributes, fields, _ in (CHECKS[row] for row in rows):
            command |= fields
            for name, value in attributes.items():
                patch.setattr(caller.controller, name, value)
        return reset(caller, ctxt=5, **command)


@pytest.mark.parametrize("row", CHECKS)
def test_each_check(hsm_caller: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers, row: str) -> None:
    result = failing(hsm_caller, monkeypatch, row)
    assert (result.error, result.answer["abort_sts"], result.answer["ctxt"]) == (errno.EINVAL, CHECKS[row][2], 5)
    covers(f"kmod/A.10/{row}")


def test_the_first_check_that_fails_decides(hsm_caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    for first, second in combinations(CHECKS, 2):
        if {first, second} != {"4-zero", "4-above"}:
            assert failing(hsm_caller, monkeypatch, first, second).answer["abort_sts"] == CHECKS[first][2]


def test_memory_that_is_not_there(hsm_caller: Caller, covers: Covers) -> None:
    assert hsm_caller.call(Ioctl.RESET, UserPages(GONE)).error == errno.EFAULT
    covers("kmod/A.10/1")
    pages = UserPages(READ_ONLY)
    pages.put(0, reset_command(AbortType.TIMEOUT).tobytes())
    assert hsm_caller.call(Ioctl.RESET, pages.address).error == errno.EFAULT


def test_structure_that_is_too_small(hsm_caller: Caller, covers: Covers) -> None:
    command = reset_command(AbortType.L2_RESET, hdr=(SIZE - 1, 0, 0, 0))
    before = command.tobytes()
    assert hsm_caller.call(Ioctl.RESET, command).error == errno.EINVAL
    assert command.tobytes() == before
    assert command[0]["abort_sts"] == kept("abort_sts", command.dtype)
    covers("kmod/A.10/2")


def test_abort_that_fails(hsm_caller: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    """Its number is what the ioctl returns, and a positive one is no error to the caller."""
    monkeypatch.setattr(hsm_caller.controller, "abort", lambda _: AbortResult.LEVEL_TWO_FAILED)
    result = reset(hsm_caller)
    assert (result.error, result.value, result.answer["abort_sts"]) == (0, 3, 3)
    covers("kmod/A.10/7-positive")


def test_device_that_does_not_come_back(hsm_caller: Caller, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    def fail(_: AbortType) -> int:
        raise Errno(errno.ETIMEDOUT)

    monkeypatch.setattr(hsm_caller.controller, "abort", fail)
    result = reset(hsm_caller)
    assert (result.error, result.answer["abort_sts"]) == (errno.ETIMEDOUT, 3)
    covers("kmod/A.10/7-errno")
