# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Typed commands, waited for and awaited: the same messages, answers and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ihsm.ddi import Channel, NotAsynchronousError, Partition, RequestError, ResponseError, Session, StatusError
from ihsm.errors import ArgumentError, ArgumentTypeError, DriverError, IhsmError, SessionClosedError
from ihsm_abi.ddi import DdiStatus, HmacReq, HmacResp
from ihsm_abi.hsm_queue import ControlKind
from support.ddi_replay import RecordedReply, Responder
from support.waiting import one_round

SESSION_ID = 5
REQUEST = HmacReq(key_id=1, msg=b"message")


@dataclass
class AsyncResponder(Responder):
    """A responder for coroutines alone: each answer comes with the event loop's next round."""

    asked: list[tuple[bytes, ControlKind, int | None]] = field(default_factory=list)

    async def exchange_async(self, message: bytes, kind: ControlKind, session_id: int | None) -> RecordedReply:
        self.asked.append((message, kind, session_id))
        await one_round()
        return super().exchange(message, kind, session_id)

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> RecordedReply:
        raise AssertionError("a coroutine waits")


@dataclass
class RecordingResponder(Responder):
    asked: list[tuple[bytes, ControlKind, int | None]] = field(default_factory=list)

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> RecordedReply:
        self.asked.append((message, kind, session_id))
        return super().exchange(message, kind, session_id)


def reversed_message(request: Any) -> HmacResp:
    return HmacResp(tag=request.msg[::-1])


def session_over(transport: Responder) -> Session:
    partition = Partition(transport)
    partition._info = object()  # type: ignore[assignment]  # the kind of device has been asked for
    return Session(partition, SESSION_ID, 0, bytes(48), b"")


def test_an_awaited_command_sends_and_answers_what_a_waiting_one_does() -> None:
    waited, awaited = RecordingResponder(reversed_message), AsyncResponder(reversed_message)
    answers = [
        session_over(waited).partition.channel.call(REQUEST, HmacResp, SESSION_ID),
        asyncio.run(session_over(awaited).partition.channel.call_async(REQUEST, HmacResp, SESSION_ID)),
    ]
    assert answers == [HmacResp(tag=b"egassem")] * 2
    assert waited.asked == awaited.asked
    assert awaited.asked[0][1:] == (ControlKind.IN_SESSION, SESSION_ID)


def test_commands_of_many_coroutines_are_under_way_at_once() -> None:
    transport = AsyncResponder(reversed_message)
    under_way: list[int] = []

    def answer(request: Any) -> HmacResp:
        under_way.append(len(transport.asked))
        return reversed_message(request)

    transport.answer = answer
    session = session_over(transport)

    async def run() -> list[HmacResp]:
        requests = [HmacReq(key_id=1, msg=b"%d" % number) for number in range(10, 20)]
        return await asyncio.gather(*(session.call_async(request, HmacResp) for request in requests))

    assert [answer.tag for answer in asyncio.run(run())] == [(b"%d" % number)[::-1] for number in range(10, 20)]
    assert under_way[0] == 10


def lost(request: Any) -> HmacResp:
    raise DriverError("lost")


@pytest.mark.parametrize(
    ("answer", "request_", "error"),
    [
        (lambda request: DdiStatus.KeyNotFound, REQUEST, StatusError),
        (lambda request: request, REQUEST, ResponseError),
        (lost, REQUEST, DriverError),
        (reversed_message, HmacReq(key_id=1, msg=bytes(5000)), RequestError),
        (reversed_message, HmacResp(tag=b""), ArgumentError),
        (reversed_message, 7, ArgumentTypeError),
    ],
    ids=["status", "no response", "transport", "unencodable", "no request", "no message"],
)
def test_errors_are_the_same_and_come_to_who_awaits(
    answer: Callable[[Any], Any], request_: Any, error: type[IhsmError]
) -> None:
    with pytest.raises(error) as waited:
        session_over(Responder(answer)).call(request_, HmacResp)
    coroutine = session_over(AsyncResponder(answer)).call_async(request_, HmacResp)
    with pytest.raises(error) as awaited:
        asyncio.run(coroutine)
    assert type(waited.value) is type(awaited.value) is error
    assert str(awaited.value).replace("call_async", "call") == str(waited.value)


def test_a_closed_session_sends_nothing() -> None:
    transport = AsyncResponder(reversed_message)
    session = session_over(transport)
    session.closed = True
    with pytest.raises(SessionClosedError, match="session 5 is closed"):
        asyncio.run(session.call_async(REQUEST, HmacResp))
    assert not transport.asked


def test_a_transport_without_coroutines_is_named_and_not_asked() -> None:
    transport = RecordingResponder(reversed_message)
    with pytest.raises(NotAsynchronousError, match="RecordingResponder has no exchange_async: use call"):
        asyncio.run(Channel(transport).call_async(REQUEST, HmacResp, SESSION_ID))
    assert not transport.asked
