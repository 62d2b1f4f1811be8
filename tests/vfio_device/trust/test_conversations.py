# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whole conversations, judged by a requester that shares nothing with the responder but declarations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import pytest
from cryptography import x509

from ihsm_abi.spdm.algorithms import BaseHash
from ihsm_abi.spdm.codes import MeasurementOperation, ResponseCode, SummaryType
from ihsm_abi.spdm.measurements import LAST_TCB_BLOCK, MeasurementBlock, decode_record, encode_record
from ihsm_abi.spdm.opaque import OpaqueElement, OpaqueList
from ihsm_device.hsm import HsmDevice
from ihsm_device.hsm.keystore import Scope
from ihsm_device.trust import Responder
from ihsm_device.trust.attestation import Attestation
from support.spdm_requester import Requester
from support.spdm_requests import REQUESTS, patched
from support.spdm_vendor import Protocol


def summary(blocks: tuple[MeasurementBlock, ...], base_hash: BaseHash, last: int) -> bytes:
    name = base_hash.name.lower() if base_hash.name else ""
    return hashlib.new(name, encode_record(block for block in blocks if block.index <= last)).digest()


@pytest.mark.parametrize("base_hash", [BaseHash.SHA384, BaseHash.SHA512, BaseHash.SHA256])
def test_everything_once_with_each_hash(make_requester: Callable[..., Requester], base_hash: BaseHash) -> None:
    requester = make_requester(base_hash)
    requester.negotiate()
    digest = requester.digests()
    requester.read_chain(portion=100)
    assert digest == requester.hash(requester.chain)
    challenged = requester.challenge(SummaryType.TCB)
    blocks = requester.blocks()
    assert [block.index for block in blocks] == list(range(1, 37))
    assert challenged.summary == summary(blocks, base_hash, LAST_TCB_BLOCK)
    assert requester.challenge(SummaryType.ALL).summary == summary(blocks, base_hash, 36)
    assert requester.challenge().summary == b""
    for kind, last in ((SummaryType.NONE, 0), (SummaryType.TCB, LAST_TCB_BLOCK), (SummaryType.ALL, 36)):
        exchanged = requester.key_exchange(kind)
        assert exchanged.summary == (summary(blocks, base_hash, last) if last else b"")
        requester.finish()
        requester.end_session()
    requester.open_session()
    assert requester.blocks() == blocks
    assert requester.digests() == digest
    requester.read_chain(portion=0xFFFF)
    requester.end_session()


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in a session"])
def test_each_block_is_the_one_among_all(requester: Requester, inside: bool) -> None:
    """As DMTF's suite asks: how many there are, all of them, each unsigned, and the last with the signature."""
    if inside:
        requester.open_session()
    count = requester.measure(MeasurementOperation.COUNT, signed=True)
    assert (count.total, count.block_count, count.record) == (36, 0, b"")
    everything = requester.measure(MeasurementOperation.ALL, signed=True)
    blocks = decode_record(everything.record, everything.block_count)
    for index, block in enumerate(blocks, 1):
        one = requester.measure(index, signed=index == len(blocks))
        assert (one.total, one.block_count, one.slot) == (0, 1, 0)
        assert decode_record(one.record, 1) == (block,)
    for index in range(37, 0xFF):
        request = patched("GET_MEASUREMENTS", 3, f"{index:02x}")
        assert (requester.secured(request) if inside else requester.send(request)) == bytes.fromhex("127f0100")


def test_measurements_before_a_signature_are_signed_with_it(requester: Requester) -> None:
    requester.measure(MeasurementOperation.COUNT)
    requester.measure(1, raw=True)
    requester.measure(36)
    requester.blocks()
    requester.open_session()
    requester.measure(2)
    requester.measure(3, signed=True)
    requester.measure(4, signed=True)


BETWEEN: Final = {
    "another request": REQUESTS["GET_DIGESTS"],
    "one that is not served": REQUESTS["HEARTBEAT"],
    "one that may not come now": REQUESTS["NEGOTIATE_ALGORITHMS"],
    "a block that there is not": patched("GET_MEASUREMENTS", 3, "63"),
    "a block in another version": patched("GET_MEASUREMENTS", 0, "13"),
    "less than a header": b"",
}


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in a session"])
@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_whatever_comes_between_measurements_begins_their_series_anew(
    requester: Requester, between: bytes, inside: bool
) -> None:
    if inside:
        requester.open_session()
    requester.measure(1)
    answer = requester.secured(between) if inside else requester.send(between)
    assert (answer[1] == ResponseCode.ERROR) == (between != REQUESTS["GET_DIGESTS"])
    requester.measured[inside] = b""
    requester.measure(2, signed=True)


BREAK_OFF: Final = {
    *("GET_MEASUREMENTS", "KEY_EXCHANGE", "FINISH", "END_SESSION", "HEARTBEAT", "KEY_UPDATE"),
    *("PSK_EXCHANGE", "PSK_FINISH", "GET_ENCAPSULATED_REQUEST", "DELIVER_ENCAPSULATED_RESPONSE"),
}
"""DSP0274 1.2 table 38; most of them have ERROR as their answer here."""


@pytest.mark.parametrize("name", sorted(set(REQUESTS) - {"GET_VERSION", "GET_DIGESTS", "GET_CERTIFICATE", "CHALLENGE"}))
def test_some_requests_before_a_challenge_begin_its_transcript_anew(requester: Requester, name: str) -> None:
    """Unless there was one before (DSP0274 1.2 §10.8)."""
    requester.send(REQUESTS[name])
    if name.removesuffix(" signed") in BREAK_OFF:
        requester.read = b""
    requester.challenge()
    requester.digests()
    requester.send(REQUESTS[name])
    requester.challenge()


@pytest.mark.parametrize("before", [False, True], ids=["a first", "another"])
@pytest.mark.parametrize("read", ["", "digests", "read_chain", "digests read_chain"])
def test_a_challenge_is_over_what_was_read_of_the_chain(requester: Requester, read: str, before: bool) -> None:
    """After the negotiation, or after another challenge (DSP0274 1.2 table 38)."""
    requester.negotiate()
    if before:
        requester.challenge()
    for name in read.split():
        getattr(requester, name)()
    for kind in SummaryType:
        requester.challenge(kind)


def test_digests_begin_the_transcript_of_a_challenge_anew(requester: Requester) -> None:
    requester.digests()
    requester.digests()
    requester.challenge()
    requester.read_chain()
    requester.open_session()
    requester.digests()
    requester.end_session()
    requester.challenge()


VERSIONS: Final = OpaqueElement(registry=0, vendor=b"", data=bytes.fromhex("0101 01 0011"))
ELEMENTS: Final = {
    "of another vendor before": (OpaqueElement(registry=3, vendor=b"\1\0", data=b"abc"), VERSIONS),
    "of another vendor behind": (VERSIONS, OpaqueElement(registry=3, vendor=b"\1\0", data=bytes(900))),
    "of DMTF's for something else": (OpaqueElement(registry=0, vendor=b"", data=b"\1\x7f"), VERSIONS),
    "of DMTF's in another form": (VERSIONS, OpaqueElement(registry=0, vendor=b"", data=b"\2\1")),
    "of an unknown registry": (OpaqueElement(registry=0x7F, vendor=b"", data=b""), VERSIONS),
    "with several versions": (OpaqueElement(registry=0, vendor=b"", data=bytes.fromhex("0101 03 001000110012")),),
    "with an update of the version": (OpaqueElement(registry=0, vendor=b"", data=bytes.fromhex("0101 01 1011")),),
}


@pytest.mark.parametrize("elements", ELEMENTS.values(), ids=ELEMENTS)
def test_opaque_data_of_a_key_exchange(requester: Requester, elements: tuple[OpaqueElement, ...]) -> None:
    requester.key_exchange(data=OpaqueList(count=len(elements), elements=elements).encode())
    requester.finish()
    requester.blocks()


def test_the_chain_is_the_devices_and_says_that_it_is_an_emulator(requester: Requester, hsm: HsmDevice) -> None:
    root, alias = requester.certificates
    assert root == hsm.record.certificates[0]
    certificate = x509.load_der_x509_certificate(alias)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(root))
    assert [extension.oid.dotted_string for extension in certificate.extensions] == [
        "2.5.29.14",
        "2.5.29.35",
        "2.5.29.15",
        "2.5.29.37",
        "2.23.133.5.4.1",
    ]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.public_bytes() == bytes.fromhex("03020388")
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [usage.dotted_string for usage in usages] == [
        "2.23.133.5.4.100.7",
        "2.23.133.5.4.100.9",
        "2.23.133.5.4.100.11",
        "1.3.6.1.4.1.412.274.3",
    ]
    information = certificate.extensions[4].value
    assert isinstance(information, x509.UnrecognizedExtension)
    assert b"emulator" in information.value
    assert len(alias) <= 1160


def test_the_alias_is_bound_to_the_code(hsm: HsmDevice, attestation: Attestation) -> None:
    """The same code has the same key, other code of the responder another; other code elsewhere does not matter."""
    keys = []
    for index in (None, 0, 2):
        files = [
            file._replace(digest=bytes(48)) if place == index else file for place, file in enumerate(attestation.files)
        ]
        responder = Attestation(hsm, files).responder(0)
        requester = Requester(responder.answer, responder.answer_secured)
        requester.negotiate()
        requester.read_chain()
        keys.append(requester.public_key())
    assert keys[0] == keys[1] != keys[2]


def test_protocols_are_reached_in_a_session(requester: Requester, responder: Responder, protocol: Protocol) -> None:
    requester.open_session()
    answer = requester.secured(bytes.fromhex("12fe0000 0300 02 0100 0400 07") + b"abc")
    assert answer == bytes.fromhex("127e0000 0300 02 0100 0400 07") + b"cba"
    assert protocol.asked == [(b"abc", responder.session_id)]
    assert responder.session_id == requester.session
    requester.end_session()
    assert protocol.ended == 1
    assert responder.session_id is None


def test_the_keys_of_a_session_are_few_and_go_with_it(
    requester: Requester, hsm: HsmDevice, responder: Responder
) -> None:
    def keys() -> int:
        """How many there are; none any more."""
        return hsm.store.destroy_group(function=0, scope=Scope.TRUST)

    requester.open_session()
    requester.end_session()
    assert keys() == 0
    requester.key_exchange()
    responder.forget()
    assert keys() == 0
    requester.request = None
    requester.negotiate()
    requester.key_exchange()
    assert keys() == 7  # a key and an IV each way, and what the proofs and the keys of data are made of
    responder.forget()
    requester.request = None
    requester.negotiate()
    requester.open_session()
    assert keys() == 4


def test_a_session_whose_keys_have_gone_ends(requester: Requester, hsm: HsmDevice, responder: Responder) -> None:
    requester.open_session()
    hsm.store.destroy_group(function=0)
    assert responder.answer_secured(requester.seal(bytes.fromhex("12810000"))) is None
    assert responder.session_id is None
    requester.request = None
    requester.open_session()


def test_a_reset_forgets_session_and_negotiation(
    requester: Requester, responder: Responder, protocol: Protocol
) -> None:
    requester.open_session()
    responder.forget()
    assert protocol.ended == 1
    assert responder.answer_secured(requester.seal(bytes.fromhex("12810000"))) is None
    assert responder.answer(bytes.fromhex("12810000")) == bytes.fromhex("107f0400")
    again = Requester(responder.answer, responder.answer_secured)
    again.negotiate()
    again.read_chain()
    again.challenge()
    again.open_session()


def test_two_functions_have_sessions_of_their_own(attestation: Attestation) -> None:
    pair = []
    for function in (0, 1):
        responder = attestation.responder(function)
        requester = Requester(responder.answer, responder.answer_secured)
        requester.negotiate()
        requester.read_chain()
        requester.open_session()
        pair.append((requester, responder))
    (first, one), (second, other) = pair
    other.forget()
    first.blocks()
    assert other.session_id is None
    one.forget()
    second.request = None
    second.negotiate()
    second.blocks()
