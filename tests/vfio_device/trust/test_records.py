# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records that are not what comes next."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm_abi.spdm import codes
from ihsm_device.trust import Responder
from support.spdm_requester import Requester
from support.spdm_requests import REQUESTS

DIGESTS: Final = REQUESTS["GET_DIGESTS"]


def test_a_spoilt_record_ends_the_session(requester: Requester, responder: Responder) -> None:
    for byte in (4, 6, 10, -1):
        requester.open_session()
        record = bytearray(requester.seal(DIGESTS))
        record[byte] ^= 1
        assert requester.open(requester.send_record(bytes(record))) == bytes.fromhex("127f0600")
        assert responder.session_id is None
        requester.request = requester.response = None
    requester.open_session()


def test_a_record_that_comes_twice_ends_the_session(requester: Requester, responder: Responder) -> None:
    requester.open_session()
    record = requester.seal(DIGESTS)
    requester.open(requester.send_record(record))
    assert requester.open(requester.send_record(record)) == bytes.fromhex("127f0600")
    assert responder.session_id is None


def test_a_record_that_was_left_out_ends_the_session(requester: Requester, responder: Responder) -> None:
    requester.open_session()
    requester.seal(DIGESTS)
    assert requester.secured(DIGESTS) == bytes.fromhex("127f0600")
    assert responder.session_id is None


def test_records_of_others_are_passed_over(requester: Requester, responder: Responder) -> None:
    assert responder.answer_secured(bytes(40)) is None
    requester.open_session()
    record = requester.seal(DIGESTS)
    for other in (b"", record[:3], bytes(40), bytes([record[0] ^ 1]) + record[1:]):
        assert responder.answer_secured(other) is None
    assert requester.open(requester.send_record(record))[1] == codes.ResponseCode.DIGESTS


def test_a_wrong_proof_ends_the_session(requester: Requester, responder: Responder) -> None:
    for place in (4, 51):
        requester.key_exchange()
        request = bytearray(requester.finish_request())
        request[place] ^= 1
        assert requester.secured(bytes(request)) == bytes.fromhex("127f0600")
        assert responder.session_id is None


def test_random_bytes_behind_a_message_are_passed_over(requester: Requester) -> None:
    requester.open_session()
    keys = requester.request
    assert keys is not None
    plain = bytes([4, 0]) + DIGESTS + b"random"
    header = requester.session.to_bytes(4, "little") + (len(plain) + 16).to_bytes(2, "little")
    record = header + AESGCM(keys.key).encrypt(keys.nonce(), plain, header)
    assert requester.open(requester.send_record(record + bytes(3)))[1] == codes.ResponseCode.DIGESTS


def test_a_new_negotiation_ends_the_session(requester: Requester, responder: Responder) -> None:
    requester.open_session()
    requester.version()
    assert responder.session_id is None


def test_a_record_without_a_whole_message_ends_the_session(requester: Requester, responder: Responder) -> None:
    requester.open_session()
    keys = requester.request
    assert keys is not None
    plain = bytes([5, 0]) + DIGESTS
    header = requester.session.to_bytes(4, "little") + (len(plain) + 16).to_bytes(2, "little")
    record = header + AESGCM(keys.key).encrypt(keys.nonce(), plain, header)
    assert requester.open(requester.send_record(record)) == bytes.fromhex("127f0600")
    assert responder.session_id is None
