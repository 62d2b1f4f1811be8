# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever comes, there is an answer of the right form, no exception, no key that stays; the next requester is served.

Bytes are random, or those of real requests with something changed, as hypothesis or a seeded generator
brings them; a part of them comes in records of a real session.
"""

from __future__ import annotations

import random
import resource
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.spdm.codes import ResponseCode
from ihsm_device.hsm import HsmDevice
from ihsm_device.hsm.keystore import Scope
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust.attestation import Attestation
from support.spdm_requester import Requester
from support.spdm_requests import REQUESTS
from support.trusted_io import OBJECTS_AND_MESSAGES, Config, control

ANSWERS: Final = frozenset(ResponseCode)
FUNCTION: Final = 5
OBJECTS: Final = 1_000_000
ALL_REQUESTS: Final = sorted({*REQUESTS.values(), *OBJECTS_AND_MESSAGES})
SETTLED: Final = 50_000
"""Objects after which the process has all the memory that it needs."""


def spoilt(request: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    """A request with bytes changed, and of another length."""
    data = bytearray(request)
    for place, value in changes:
        data[place % len(data)] = value
    if cut is None:
        return bytes(data)
    return bytes(data[:cut]) if cut < len(data) else bytes(data) + bytes(cut - len(data))


MESSAGES: Final = st.one_of(
    st.sampled_from(ALL_REQUESTS),
    st.binary(max_size=200),
    st.builds(
        spoilt,
        st.sampled_from(ALL_REQUESTS),
        st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3),
        st.none() | st.integers(0, 300),
    ),
)


class Talker:
    """Brings requests to a responder by every way."""

    def __init__(self, attestation: Attestation) -> None:
        interface = DeviceInterface()
        Config(interface).controls(selective=control())
        self.responder = attestation.objects(FUNCTION, interface).responder
        self.requester = Requester(self.responder.answer, self.responder.answer_secured)
        self.in_session = 0
        """Messages that came in a session."""

    def bring(self, message: bytes, way: int) -> None:
        """Outside, in a record, or as a record."""
        if way == 0:
            answer = self.responder.answer(message)
            assert answer[1] in ANSWERS
            assert answer[0] in (0x10, 0x12)
            assert len(answer) <= 4088
        elif way == 1 and self.requester.established:
            self._in_session(message)
        else:
            assert self.responder.answer_secured(message) is None

    def _in_session(self, message: bytes) -> None:
        self.in_session += 1
        record = self.responder.answer_secured(self.requester.seal(message))
        if record is None:
            assert self.responder.session_id is None
        else:
            assert len(record) <= 4088
            assert self.requester.open(record)[1] in ANSWERS
        if self.responder.session_id is None:
            self.requester.request = self.requester.response = None

    def begin(self) -> None:
        """A session."""
        self.requester.request = self.requester.response = None
        self.requester.negotiate()
        self.requester.read_chain()
        self.requester.challenge()
        self.requester.open_session()


@given(st.lists(st.tuples(MESSAGES, st.integers(0, 2)), max_size=30), st.booleans())
@settings(max_examples=60, deadline=None)
def test_random_requests(
    hsm: HsmDevice, attestation: Attestation, steps: list[tuple[bytes, int]], session: bool
) -> None:
    talker = Talker(attestation)
    if session:
        talker.begin()
    for message, way in steps:
        # A GET_VERSION outside ends the session that the requester believes in.
        if talker.responder.session_id is None:
            talker.requester.request = None
        talker.bring(message, way)
    talker.begin()
    talker.responder.forget()
    assert hsm.store.destroy_group(function=FUNCTION, scope=Scope.TRUST) == 0


@pytest.mark.long
def test_a_million_random_objects(hsm: HsmDevice, attestation: Attestation) -> None:
    seed = 20
    chance = random.Random(seed)
    talker = Talker(attestation)
    settled = 0
    for number in range(OBJECTS):
        if number == SETTLED:
            settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if number % 200 == 0:
            talker.begin()
        elif talker.responder.session_id is None:
            talker.requester.request = None
        message = chance.choice(ALL_REQUESTS)
        if chance.random() < 0.7:
            changes = [(chance.randrange(300), chance.randrange(256)) for _ in range(chance.randrange(4))]
            message = spoilt(message, changes, chance.randrange(300) if chance.random() < 0.2 else None)
        elif chance.random() < 0.1:
            message = chance.randbytes(chance.randrange(4089))
        # A record of nobody's ends the session, and so does many a message outside of it.
        talker.bring(message, chance.choices((0, 1, 2), (20, 79, 1))[0])
    assert talker.in_session > OBJECTS // 10
    talker.begin()
    talker.responder.forget()
    assert hsm.store.destroy_group(function=FUNCTION, scope=Scope.TRUST) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled < 4096
