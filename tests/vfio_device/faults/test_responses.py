# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Responses that are wrong or cut (spec 02 §B.3), and resources that there are none left of."""

from __future__ import annotations

import numpy as np
import pytest

from ihsm_abi.admin import IDENTIFY, AdminOpcode, AdminStatus, Psf
from ihsm_abi.fault_actions import FaultAction, Resource
from ihsm_abi.faults import Match, When
from ihsm_abi.hsm_queue import HsmStatus
from support.polled import PolledDriver
from support.shown import Sender, Shown

ONCE = When(count=1)
UNTOUCHED = 0x5A


def response(ready: PolledDriver) -> tuple[int, bytes]:
    """Byte count of an HSM command that has b"abc" reversed, and the first bytes of what it was answered into."""
    sender = Sender(ready, 1)
    ready.answer_page.view[:8] = UNTOUCHED
    sender.send()
    completion = sender.ring.wait()
    return int(completion["byte_count"]), bytes(ready.answer_page.view[:8])


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"at": 1, "xor": 1}, b"ccaZZZZZ"),
        ({"at": 2}, b"cb\x9eZZZZZ"),
    ],
)
def test_a_byte_is_another(shown: Shown, ready: PolledDriver, parameters: dict[str, int], expected: bytes) -> None:
    shown.show(FaultAction.CORRUPT_RESPONSE, match=Match(queue=1), when=ONCE, **parameters)
    assert response(ready) == (3, expected)
    assert response(ready) == (3, b"cbaZZZZZ")


def test_a_byte_beyond_the_end_is_one_within(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.CORRUPT_RESPONSE, match=Match(queue=1), when=ONCE, at=8191, xor=0x80)
    count, data = response(ready)
    assert count == 3
    assert data[3:] == b"ZZZZZ", "nothing behind the response is touched"
    assert sum(one != other for one, other in zip(data[:3], b"cba", strict=True)) == 1


@pytest.mark.parametrize(
    ("parameters", "count", "expected"),
    [
        ({"bytes": 1}, 1, b"cZZZZZZZ"),
        ({"bytes": 0}, 0, b"ZZZZZZZZ"),
        ({"bytes": 2, "told": 3}, 3, b"cbZZZZZZ"),
        ({"bytes": 0, "told": 0xFFFF}, 0xFFFF, b"ZZZZZZZZ"),
        ({"bytes": 100}, 3, b"cbaZZZZZ"),
    ],
)
def test_only_the_beginning(
    shown: Shown, ready: PolledDriver, parameters: dict[str, int], count: int, expected: bytes
) -> None:
    shown.show(FaultAction.CUT_RESPONSE, match=Match(queue=1), when=ONCE, **parameters)
    assert response(ready) == (count, expected)
    assert response(ready) == (3, b"cbaZZZZZ")


def test_what_identify_tells(shown: Shown, ready: PolledDriver) -> None:
    fault = shown.show(FaultAction.CORRUPT_RESPONSE, match=Match(queue=0), when=ONCE, at=0, xor=0xFF)
    assert ready.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS, "which has no data"
    assert shown.faults.hits(fault) == 0
    assert ready.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=ready.page.iova).status == AdminStatus.SUCCESS
    page = np.frombuffer(bytes(ready.page.view[: IDENTIFY.itemsize]), IDENTIFY)[0]
    assert page["vid"] == 0x1414 ^ 0xFF
    assert page["cp_sqes"] == 0x66


def test_aes_commands_have_no_response(shown: Shown, ready: PolledDriver) -> None:
    """Their data are the client's: nothing of them is touched."""
    fault = shown.show(FaultAction.CORRUPT_RESPONSE)
    Sender(ready, 256).run()
    assert shown.faults.hits(fault) == 0


def test_no_buffer_for_a_request(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.EXHAUST_RESOURCE, when=ONCE, resource=Resource.REQUESTS)
    sender = Sender(ready, 1)
    sender.send()
    assert Psf(sender.ring.wait()["psf"]).sc == HsmStatus.INTERNAL_ERROR
    sender.run()


def test_a_resource_that_nobody_asks_for(shown: Shown, ready: PolledDriver) -> None:
    faults = [
        shown.show(FaultAction.EXHAUST_RESOURCE, resource=each) for each in Resource if each is not Resource.REQUESTS
    ]
    Sender(ready, 1).run()
    Sender(ready, 256).run()
    assert [shown.faults.hits(fault) for fault in faults] == [0] * len(faults)
    ready.delete_pair(1)
    assert ready.create_cq(ready.rings[256]).status == AdminStatus.INTERNAL_ERROR
