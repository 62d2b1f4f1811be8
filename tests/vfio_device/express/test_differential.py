# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The same commands to two devices made from one state, one with the express lane: nobody can tell which is which.

`scripts/differential` does it for as long as one likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import shake_256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.ddi.transforms import Dialect
from ihsm_abi.ddi import (
    API_REV,
    AesEncryptDecryptReq,
    AesOp,
    ApiRev,
    DdiOp,
    DdiStatus,
    DeviceKind,
    EccSignReq,
    EccSignResp,
    HashAlgorithm,
    HmacReq,
    ReqHdr,
    RsaModExpReq,
    RsaOpType,
    decode_request,
    decode_response,
    decode_response_header,
    encode_message,
)
from ihsm_abi.ddi.formats import RAW_DIGEST_BYTES
from ihsm_abi.hsm_queue import ControlKind, HsmOpcode, SessionControl
from ihsm_abi.mbor import MborDecodeError, MborError, MborMap
from ihsm_abi.pci import PAGE_BYTES
from support.hsm import CREDENTIAL, SEED
from support.twins import QUEUE, Seen, Sent, Subject, Twin, is_signature, twins

EXAMPLES = int(os.environ.get("IHSM_DIFFERENTIAL_EXAMPLES", "30"))
CANONICAL = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)
OPTIONS = {"physical": ("--kind", "physical"), "virtual-fips": ("--kind", "virtual", "--fips")}
OPERATIONS = {
    EccSignReq: DdiOp.EccSign,
    RsaModExpReq: DdiOp.RsaModExp,
    AesEncryptDecryptReq: DdiOp.AesEncryptDecrypt,
    HmacReq: DdiOp.Hmac,
}


def mostly(usual: st.SearchStrategy[Any], unusual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Unusual in one of twelve cases."""
    return st.integers(0, 11).flatmap(lambda chance: unusual if chance == 0 else usual)


LABELS = mostly(
    st.sampled_from(tuple(HashAlgorithm)), st.sampled_from((0, 5, 31, 32, 33, 2**31, 2**32 - 1)).map(HashAlgorithm)
)


def octets(sizes: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """Bytes of these lengths; what they are matters little, and drawing each takes long."""
    return st.builds(lambda size, seed: shake_256(bytes([seed])).digest(size), sizes, st.integers(0, 255))


DIGESTS = mostly(octets(st.sampled_from((20, 32, 48, 64))), octets(st.integers(0, 96)))
NUMBERS = mostly(
    octets(st.just(255)).map(lambda number: b"\x01" + number),
    st.one_of(octets(st.integers(0, 512)), st.sampled_from((bytes(256), bytes(255) + b"\1", b"\xff" * 256))),
)
TEXTS = mostly(octets(st.integers(1, 64).map(lambda blocks: 16 * blocks)), octets(st.integers(0, 1024)))


@st.composite
def requests(draw: st.DrawFn, subjects: Sequence[Subject]) -> MborMap:
    """The data map of one of the lane's operations, mostly with a key for it; in the form of the API, big-endian."""
    op = draw(st.sampled_from(tuple(OPERATIONS.values())))
    fitting = [subject.key_id for subject in subjects if subject.operation is op]
    others = st.one_of(st.sampled_from([subject.key_id for subject in subjects]), st.integers(0, 65535))
    key_id = draw(mostly(st.sampled_from(fitting), others))
    match op:
        case DdiOp.EccSign:
            return EccSignReq(key_id=key_id, digest=draw(DIGESTS), digest_algo=draw(LABELS))
        case DdiOp.RsaModExp:
            return RsaModExpReq(key_id=key_id, y=draw(NUMBERS), op_type=draw(PURPOSES))
        case DdiOp.Hmac:
            return HmacReq(key_id=key_id, msg=draw(octets(st.integers(0, 1024))))
    ivs = mostly(octets(st.just(16)), octets(st.integers(0, 16)))
    return AesEncryptDecryptReq(key_id=key_id, op=draw(DIRECTIONS), msg=draw(TEXTS), iv=draw(ivs))


PURPOSES = mostly(st.sampled_from(tuple(RsaOpType)), st.sampled_from((0, 3, 32, 2**32 - 1)).map(RsaOpType))
DIRECTIONS = mostly(st.sampled_from(tuple(AesOp)), st.sampled_from((0, 3, 33)).map(AesOp))
REVISIONS = mostly(
    st.just(API_REV),
    st.sampled_from((None, ApiRev(major=1, minor=1), ApiRev(major=0, minor=0), ApiRev(major=2, minor=0))),
)
SESSIONS = mostly(st.sampled_from((0, 0, 0, 1)), st.sampled_from((None, 2, 3, 7, 8, 255, 65535)))


@st.composite
def mutations(draw: st.DrawFn, message: bytes) -> bytes:
    """The message with bytes changed, cut off or added: what the canonical encoding is not."""
    changed = bytearray(message)
    match draw(st.integers(0, 3)):
        case 0:
            for _ in range(draw(st.integers(1, 3))):
                at = draw(st.integers(0, min(len(changed), 100) - 1))
                changed[at] ^= draw(st.integers(1, 255))
        case 1:
            del changed[draw(st.integers(1, len(changed))) :]
        case 2:
            changed += draw(st.binary(min_size=1, max_size=8))
        case _:  # markers and fill alone: what receivers overlook
            marked = [
                at
                for at in range(len(changed))
                if changed[at] in range(0x18, 0x1C) or changed[at] & 0xE0 in (0x80, 0xA0)
            ]
            at = draw(st.sampled_from(marked))
            changed[at] = draw(st.integers(0, 255))
    return bytes(changed)


@st.composite
def commands(draw: st.DrawFn, pair: tuple[Twin, Twin], kind: DeviceKind) -> Sent:
    subjects = pair[0].subjects
    request = draw(requests(subjects))
    op = draw(
        mostly(st.just(OPERATIONS[type(request)]), st.sampled_from((*OPERATIONS.values(), DdiOp.GetApiRev, 1, 9999)))
    )
    session_id = draw(SESSIONS)
    try:
        wire = Dialect(kind).to_wire(request)
    except (ValueError, IndexError):
        wire = request
    message = encode_message(ReqHdr(rev=draw(REVISIONS), op=DdiOp(op), sess_id=session_id), wire)
    message = draw(mostly(st.just(message), mutations(message)))
    sent = Sent(message, CANONICAL, draw(mostly(st.just(session_id or 0), st.integers(0, 9))))
    if draw(st.integers(0, 15)) == 0:
        sent = Sent(
            message,
            draw(st.integers(0, 255)),
            sent.session_id,
            opcode=draw(st.sampled_from((HsmOpcode.NORMAL, 2, 0x3FF))),
            psdt=draw(st.integers(0, 3)),
            source_bytes=draw(st.sampled_from((None, 0, 1, len(message) - 1, 3584, 3585, 8193))),
            destination_bytes=draw(st.sampled_from((PAGE_BYTES, 0, 1, 32, 8193))),
        )
    return sent


@pytest.fixture(scope="module", params=OPTIONS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Twin, Twin]]:
    folder = Path(tmp_path_factory.mktemp("twins"))
    with twins(folder, OPTIONS[request.param]) as made:
        yield made


def kind_of(twin: Twin) -> DeviceKind:
    return twin.client.info().kind


def signature_of(seen: Seen, kind: DeviceKind) -> bytes | None:
    """The signature in a response, big-endian; None: it is another response."""
    try:
        header, data = decode_response(seen.message, EccSignResp)
    except MborError:
        return None
    if data is None or header.op != DdiOp.EccSign:
        return None
    return Dialect(kind).to_host(data).signature


def compare(sent: Sent, with_lane: Seen, without: Seen, pair: tuple[Twin, Twin], kind: DeviceKind) -> None:
    if with_lane == without:
        return
    first, second = signature_of(with_lane, kind), signature_of(without, kind)
    assert first is not None, (sent, with_lane, without)
    assert second is not None, (sent, with_lane, without)
    assert len(first) == len(second)
    # All but the signatures is the same: the head, the lengths, the bytes behind.
    size = len(with_lane.message)
    start = size - len(decode_response(with_lane.message, EccSignResp)[1].signature)  # type: ignore[union-attr]
    assert with_lane.page[:start] + with_lane.page[size:] == without.page[:start] + without.page[size:], sent
    fields = [
        (seen.sc, seen.byte_count, seen.control, seen.session_id, seen.short_app_id) for seen in (with_lane, without)
    ]
    assert fields[0] == fields[1], sent
    check_signatures(sent, (first, second), pair, kind)


def check_signatures(sent: Sent, signatures: tuple[bytes, bytes], pair: tuple[Twin, Twin], kind: DeviceKind) -> None:
    """Both are of the key and the digest, as far as another library can tell."""
    request = request_of(sent)
    if request is None:
        return
    digest = request.digest[::-1] if kind is DeviceKind.Physical else request.digest
    for twin, signature in zip(pair, signatures, strict=True):
        keys = [subject.public_key for subject in twin.subjects if subject.key_id == request.key_id]
        assert isinstance(keys[0], ec.EllipticCurvePublicKey)
        limit = min(64, keys[0].curve.key_size // 8)
        number = digest.lstrip(b"\0") if len(digest) == RAW_DIGEST_BYTES or len(digest) <= limit else digest
        if len(number) <= limit:
            assert is_signature(keys[0], number, signature), sent


def request_of(sent: Sent) -> EccSignReq | None:
    """The data map of an EccSign."""
    try:
        _, data = decode_request(sent.message)
    except MborDecodeError:
        return None
    return data if isinstance(data, EccSignReq) else None


def test_the_same_answers(pair: tuple[Twin, Twin]) -> None:
    kind = kind_of(pair[0])
    before = pair[0].taken()
    sent_to_each = 0

    @settings(max_examples=EXAMPLES)
    @given(st.data())
    def same(data: st.DataObject) -> None:
        nonlocal sent_to_each
        for sent in data.draw(st.lists(commands(pair, kind), min_size=1, max_size=8)):
            answers = [twin.send(sent) for twin in pair]
            sent_to_each += 1
            compare(sent, *answers, pair, kind)

    same()
    assert pair[1].taken() == 0
    taken = pair[0].taken() - before
    print(f"{sent_to_each} commands, {taken} of them by the express lane")
    assert taken > sent_to_each // 20, "the lane had little to do"


def usual(twin: Twin, kind: DeviceKind, index: int) -> Sent:
    """EccSign that succeeds with the subject, as long as the subject is there."""
    request = EccSignReq(key_id=twin.subjects[index].key_id, digest=bytes(range(32)), digest_algo=HashAlgorithm.Sha256)
    return Sent(
        encode_message(ReqHdr(rev=API_REV, op=DdiOp.EccSign, sess_id=0), Dialect(kind).to_wire(request)), CANONICAL, 0
    )


def test_state_that_changes_is_seen_at_once(pair: tuple[Twin, Twin]) -> None:
    """A key is deleted and its number given away anew, a session closed, the subsystem reset. A pair's last test."""
    kind = kind_of(pair[0])

    def status() -> DdiStatus:
        sent = usual(pair[0], kind, 0)
        with_lane, without = (twin.send(sent) for twin in pair)
        compare(sent, with_lane, without, pair, kind)
        return decode_response_header(with_lane.message)[0].status

    taken = pair[0].taken()
    assert status() == DdiStatus.Success
    assert pair[0].taken() == taken + 1
    for twin in pair:
        session = twin.sessions[0]
        key = session.unmask(twin.material.masked[0])
        session.delete_key(key)
        twin.subjects[0] = Subject(key.key_id, DdiOp.EccSign, twin.subjects[0].public_key)
    assert status() == DdiStatus.KeyNotFound
    for twin in pair:
        assert twin.sessions[0].unmask(twin.material.masked[0]).key_id == twin.subjects[0].key_id
    assert status() == DdiStatus.Success
    for twin in pair:
        twin.sessions[0].close()
    assert status() == DdiStatus.SessionNotFound
    for twin in pair:
        assert twin.client.open_session(CREDENTIAL, seed=SEED).session_id == 0
    assert status() == DdiStatus.Success
    assert pair[0].taken() == taken + 3
    for twin in pair:
        twin.driver.nssr()
        twin.driver.enable()
        twin.driver.create_pair(QUEUE)
    assert status() == DdiStatus.SessionNeedsRenegotiation
    assert pair[0].taken() == taken + 3
