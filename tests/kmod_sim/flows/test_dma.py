# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that the device cannot reach (spec 01 §14.4, §14.9; AES statuses §14.7)."""

from __future__ import annotations

import errno
from concurrent.futures import Future

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.ddi import KeyClass
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_abi.uapi import AbortType
from support.claims import Covers
from support.flow import ABORTED, BRING_UP, LOST, Flow, answers, level_1
from support.hsm_driver import ADMIN_TIMEOUT_S
from support.hsm_program import CREDENTIAL, bulk_key, provisioned
from support.ioctls import Result, gcm_command
from support.user_pages import USABLE, UserPages
from support.waiting import HANG_S


def test_an_hsm_entry(flow: Flow) -> None:
    """The ring stops; level 1 makes a new one."""
    lost = flow.lose("fail-dma", part="entry")
    behind = flow.start_ask()
    flow.time_out(2)
    assert answers(lost, behind) == [ABORTED] * 2
    assert flow.admin() == level_1()
    flow.works()


def test_an_aes_entry(flow: Flow) -> None:
    hit = flow.faults.add("fail-dma", queue=256, part="entry", count=1)
    lost = flow.driver.start_aes()
    hit.wait()
    flow.time_out()
    assert lost.join() == LOST
    assert flow.admin() == level_1(256)
    flow.works()


def test_an_admin_entry(flow: Flow) -> None:
    """The admin queue stops for good and CFS is set: DELETE_SQ has no answer, and level 2 helps."""
    lost = flow.lose()
    hit = flow.on_admin("fail-dma", AdminOpcode.DELETE_SQ, part="entry", count=1)
    flow.time_out()
    flow.time_out_admin(hit)
    assert answers(lost) == [ABORTED]
    assert flow.opcodes() == [AdminOpcode.DELETE_SQ, *BRING_UP]
    flow.works()


@pytest.mark.parametrize("part", ["source", "destination"])
def test_data_of_an_hsm_command(flow: Flow, part: str, covers: Covers) -> None:
    """The device says so, and nothing is to be recovered."""
    flow.faults.add("fail-dma", queue=1, part=part, count=1)
    answer = flow.ask()
    assert (answer.error, answer.structure["status"]) == (0, HsmStatus.DMA_ERROR)
    assert flow.counter("cp_sq1/total_ios_in_error") == 1
    assert flow.admin() == []
    flow.works()
    covers("fault/fail-dma")


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("source", AesStatus.RETRIES_EXCEEDED),
        ("destination", AesStatus.RETRIES_EXCEEDED),
        ("list", AesStatus.FETCH_ERROR),
    ],
)
def test_data_of_an_aes_command(flow: Flow, part: str, status: AesStatus) -> None:
    """With a key that there is, for else the device looks at no data."""
    session = provisioned(flow.caller).open_session(CREDENTIAL)
    key = bulk_key(session, bytes(32), KeyClass.AesGcmBulkUnapproved)
    pages = UserPages(USABLE)
    ids = {"session_id": session.session_id, "short_app_id": session.short_app_id, "key_id": key}
    flow.faults.add("fail-dma", session=session.session_id, opcode=0, part=part, count=1)
    failed, *others = (flow.caller.aes(gcm_command(pages.address, pages.address + 64, **ids)) for _ in range(3))
    assert (failed.error, failed.answer["result"], failed.answer["byte_count"]) == (0, status, 0)
    assert [(other.error, other.answer["result"], other.answer["byte_count"]) for other in others] == [(0, 0, 64)] * 2
    assert flow.counter("global/total_error_completions") == 1
    assert flow.admin() == []
    flow.works()


def test_the_page_that_identify_writes(flow: Flow) -> None:
    flow.on_admin("fail-dma", AdminOpcode.IDENTIFY, part="destination", count=1)
    with flow.in_vain():
        done: Future[Result] = flow.start_reset(AbortType.L2_RESET)
        assert (done.result(HANG_S).error, done.result().answer["abort_sts"]) == (errno.EFAULT, 3)
    flow.is_bound_again()


def test_the_entry_that_a_bring_up_begins_with(flow: Flow) -> None:
    flow.on_admin("fail-dma", AdminOpcode.IDENTIFY, part="entry", count=1)
    with flow.in_vain():
        done = flow.start_reset(AbortType.L2_NSSR)
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
        assert (done.result(HANG_S).error, done.result().answer["abort_sts"]) == (errno.EAGAIN, 3)
    flow.is_bound_again()
