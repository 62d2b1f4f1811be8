# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers of the HSM node's ioctls (spec 02 A.4)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import numpy as np
import pytest

from ihsm_abi.uapi import Ioctl
from support.ioctls import KEPT, Caller

Covers = Callable[..., None]
TAKEN = {
    0xC0704203: ("session", errno.EFAULT),
    0xC0B04204: ("dev-info", errno.EFAULT),
    0xC1104206: ("reset", errno.EFAULT),
    0xC190420B: ("xts", errno.EINVAL),
    0xC190420C: ("gcm", errno.EINVAL),
}
"""Number, its row, and what it answers to a null pointer."""
REFUSED = {
    0xC0704202: "legacy",
    0xC0284205: "test-hooks-stock",
    0xC00C4102: "mgmt-number-on-hsm",
    0xC00C4103: "mgmt-number-on-hsm",
    0xC0084104: "mgmt-number-on-hsm",
    0xC0B04105: "mgmt-number-on-hsm",
    0xC06C4203: "wrong-size",
    0xC0744203: "wrong-size",
    0x80704203: "wrong-size",
    0x40704203: "wrong-size",
    0x4203: "wrong-size",
    0xC0704207: "unknown",
    0xC190420D: "unknown",
    0xC0704303: "unknown",
    0: "unknown",
}


@pytest.mark.parametrize("number", TAKEN, ids=hex)
def test_number_that_is_taken(hsm_caller: Caller, covers: Covers, number: int) -> None:
    row, error = TAKEN[number]
    assert hsm_caller.call(number, 0).error == error
    covers(f"kmod/A.4/{row}")


@pytest.mark.parametrize("number", REFUSED, ids=hex)
def test_number_that_is_refused(hsm_caller: Caller, covers: Covers, number: int) -> None:
    """EBADRQC and not ENOTTY, and the buffer stays."""
    buffer = np.full(400, KEPT, np.uint8)
    assert hsm_caller.call(number, buffer).error == errno.EBADRQC
    assert {*buffer.tolist()} == {KEPT}
    covers(f"kmod/A.4/{REFUSED[number]}", "kmod/I/2")


def test_numbers_are_those_of_the_declaration() -> None:
    assert {*TAKEN} | {0xC0704202, 0xC0284205} == {ioctl for ioctl in Ioctl if ioctl >> 8 & 0xFF == ord("B")}
