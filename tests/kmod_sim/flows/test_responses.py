# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Responses that are wrong or too short (spec 02 §B.3, 01 §6.4); what is in one is the program's affair."""

from __future__ import annotations

import errno

import pytest

from ihsm_abi.admin import IDENTIFY, AdminOpcode
from ihsm_abi.mbor import MborDecodeError
from ihsm_kmod.kernel.errors import Errno
from support.claims import Covers
from support.flow import HSM_QUEUE, Flow


def differences(one: bytes, other: bytes) -> list[int]:
    """Places where two messages of one length differ."""
    assert len(one) == len(other)
    return [place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]


def test_a_byte_is_another(flow: Flow, covers: Covers) -> None:
    right = flow.ask().message
    flow.faults.add("corrupt-response", queue=HSM_QUEUE, count=1, at=0, xor=0x20)
    answer = flow.ask()
    assert (answer.error, answer.structure["status"]) == (0, 0), "the driver looks at none of it"
    assert differences(answer.message, right) == [0]
    assert answer.message[0] ^ right[0] == 0x20
    with pytest.raises(MborDecodeError):
        _ = answer.header
    assert flow.ask().message == right
    flow.works()
    covers("fault/corrupt-response")


def test_a_byte_by_chance_is_the_same_each_time(flow: Flow) -> None:
    """Of one seed; among many seeds, and among many events of one, several bytes are hit."""
    right = flow.ask().message

    def places(seed: int) -> list[int]:
        hit = flow.faults.add("corrupt-response", queue=HSM_QUEUE, seed=seed)
        found = [differences(flow.ask().message, right) for _ in range(8)]
        hit.clear()
        assert all(len(each) == 1 for each in found)
        return [place for (place,) in found]

    first = places(1)
    assert places(1) == first
    assert places(2) != first
    assert len(set(first)) > 1


def test_only_the_beginning_comes(flow: Flow, covers: Covers) -> None:
    right = flow.ask().message
    flow.faults.add("cut-response", queue=HSM_QUEUE, count=1, bytes=5)
    answer = flow.ask()
    assert (answer.error, answer.structure["status"], answer.message) == (0, 0, right[:5])
    flow.works()
    covers("fault/cut-response")


def test_nothing_of_it_comes(flow: Flow) -> None:
    flow.faults.add("cut-response", queue=HSM_QUEUE, count=1, bytes=0)
    answer = flow.ask()
    assert (answer.error, answer.structure["status"], answer.message) == (0, 0, b"")
    flow.works()


def test_more_is_told_than_is_there(flow: Flow) -> None:
    """The caller gets what was in the driver's page before, which it does not clear, and no more than has room."""
    right = flow.ask().message
    flow.faults.add("cut-response", queue=HSM_QUEUE, count=1, bytes=5, told=0xFFFF)
    answer = flow.ask()
    assert answer.structure["byte_count"] == answer.structure["dst_length"]
    assert answer.message.startswith(right[:5])
    assert not answer.message.startswith(right)
    flow.works()


@pytest.mark.parametrize(
    ("action", "values"),
    [("corrupt-response", {"at": IDENTIFY.fields["cp_sqes"][1], "xor": 1}), ("cut-response", {"bytes": 70})],  # type: ignore[index]
)
def test_what_identify_tells(flow: Flow, action: str, values: dict[str, int]) -> None:
    """An entry size that is not the driver's, or none."""
    flow.driver.unbind()
    hit = flow.on_admin(action, AdminOpcode.IDENTIFY, count=1, **values)
    with pytest.raises(Errno) as caught:
        flow.driver.bind()
    assert caught.value.errno == errno.EINVAL
    assert hit.hits == 1
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.works()
