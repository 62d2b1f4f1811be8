# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operations on arrays: row for row what the single operation gives, in both dialects, however a response looks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hmac
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ihsm.aio import AsyncSession
from ihsm.ddi import (
    BatchError,
    Credential,
    Key,
    KeyRequest,
    Partition,
    RequestError,
    ResponseError,
    Session,
    SoftwareTrustAnchor,
    StatusError,
)
from ihsm.ddi.call_arrays import CallMany
from ihsm.ddi.coding import decoded, encoded, operation_of
from ihsm.ddi.pota import der_signature
from ihsm.ddi.templates import NoTemplateError, origins
from ihsm.ddi.transforms import Dialect
from ihsm.ddi.wrapping import HASHES
from ihsm.errors import ArgumentError, ArgumentTypeError, IhsmError, QueueClosedError, SessionClosedError
from ihsm.replies import Replies
from ihsm_abi.ddi import (
    API_REV,
    AesEncryptDecryptReq,
    AesEncryptDecryptResp,
    AesOp,
    DdiStatus,
    DeviceKind,
    EccCurve,
    EccSignReq,
    EccSignResp,
    HashAlgorithm,
    HmacReq,
    HmacResp,
    KeyClass,
    KeyType,
    KeyUsage,
    ReqHdr,
    RespHdr,
    RsaModExpReq,
    RsaModExpResp,
    RsaOpType,
    encode_error,
    encode_message,
)
from ihsm_abi.ddi.limits import BK3_BYTES
from ihsm_abi.mbor import MborMap
from support.ways import WAYS

CREDENTIAL = Credential(b"application id 1", b"personal number.")
SIGN = KeyRequest(KeyUsage.SignVerify)
KINDS = [DeviceKind.Virtual, DeviceKind.Physical]
CURVES = {
    EccCurve.P256: (ec.SECP256R1(), HashAlgorithm.Sha256),
    EccCurve.P384: (ec.SECP384R1(), HashAlgorithm.Sha384),
    EccCurve.P521: (ec.SECP521R1(), HashAlgorithm.Sha512),
}
Octets = NDArray[np.uint8]


def random_rows(count: int, size: int) -> Octets:
    return np.frombuffer(os.urandom(count * size), np.uint8).reshape(count, size)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> DeviceKind:
    kind: DeviceKind = request.param
    return kind


@pytest.fixture(scope="module", params=WAYS)
def session(request: pytest.FixtureRequest, kind: DeviceKind) -> Iterator[Session]:
    """Over rings, which take arrays, and over a transport that takes one command after the other."""
    with WAYS[request.param](kind) as way, way.connect() as connection:
        partition = Partition(connection.transport)
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
        partition.establish_credential(CREDENTIAL, partition.init_bk3(os.urandom(BK3_BYTES)).masked_bk3, anchor)
        yield partition.open_session(CREDENTIAL)


@pytest.mark.parametrize("curve", CURVES)
def test_signatures(session: Session, curve: EccCurve) -> None:
    key = session.generate_ecc_key(curve, SIGN)
    public, (_, algorithm) = key.public_key, CURVES[curve]
    assert isinstance(public, ec.EllipticCurvePublicKey)
    digests = random_rows(70, HASHES[algorithm]().digest_size)
    for signatures in (session.ecc_sign_many(key, digests), session.ecc_sign_many(key, digests[:3], algorithm)):
        for digest, signature in zip(digests, signatures, strict=False):
            der = der_signature(signature.tobytes())
            public.verify(der, digest.tobytes(), ec.ECDSA(Prehashed(HASHES[algorithm]())))
    assert len(signatures) == 3


def test_rsa(session: Session) -> None:
    own = rsa.generate_private_key(65537, 2048)
    payload = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    key = session.import_key(payload, KeyClass.RsaCrt, SIGN)
    numbers = own.private_numbers()
    n = numbers.public_numbers.n
    ys = random_rows(5, 256).copy()
    ys[:, 0] = 0
    for y, x in zip(ys, session.rsa_mod_exp_many(key, ys, RsaOpType.Sign), strict=True):
        assert int.from_bytes(x.tobytes(), "big") == pow(int.from_bytes(y.tobytes(), "big"), numbers.d, n)


def test_hmac_and_cbc(session: Session) -> None:
    peer = ec.generate_private_key(ec.SECP256R1())
    agreed = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.Derive))
    spki = peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = session.ecdh(agreed, spki, KeyType.Secret256, KeyRequest(KeyUsage.Derive))
    assert isinstance(agreed.public_key, ec.EllipticCurvePublicKey)
    same = peer.exchange(ec.ECDH(), agreed.public_key)
    key = session.hkdf(secret, HashAlgorithm.Sha384, KeyType.HmacSha384, SIGN)
    expected = HKDF(HASHES[HashAlgorithm.Sha384](), 48, None, b"").derive(same)
    for messages in (random_rows(70, 13), random_rows(3, 1024), np.zeros((2, 0), np.uint8)):
        for message, tag in zip(messages, session.hmac_many(key, messages), strict=True):
            mac = hmac.HMAC(expected, HASHES[HashAlgorithm.Sha384]())
            mac.update(message.tobytes())
            assert tag.tobytes() == mac.finalize()
    cipher = session.hkdf(secret, HashAlgorithm.Sha256, KeyType.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
    plain = HKDF(HASHES[HashAlgorithm.Sha256](), 32, None, b"").derive(same)
    data, ivs = random_rows(70, 48), random_rows(70, 16)
    sealed, following = session.aes_cbc_many(cipher, AesOp.Encrypt, data, ivs)
    assert (following == sealed[:, -16:]).all()
    for text, iv, found in zip(data, ivs, sealed, strict=True):
        encryptor = Cipher(algorithms.AES(plain), modes.CBC(iv.tobytes())).encryptor()
        assert encryptor.update(text.tobytes()) == found.tobytes()
    opened, _ = session.aes_cbc_many(cipher, AesOp.Decrypt, sealed, ivs)
    assert (opened == data).all()


def test_errors(session: Session) -> None:
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    with pytest.raises(
        BatchError, match="EccSign: 3 of 3 commands failed, the first at 0: EccSign: KeyNotFound"
    ) as all_:
        session.ecc_sign_many(Key(999, key.key_type), random_rows(3, 32))
    assert all_.value.results[0].shape == (3, 0)
    assert {error.status for error in all_.value.errors.values() if isinstance(error, StatusError)} == {
        DdiStatus.KeyNotFound
    }
    with pytest.raises(ArgumentError, match="digests: 33 bytes a row"):
        session.ecc_sign_many(key, random_rows(3, 33))
    with pytest.raises(ArgumentError, match=r"digests: shape \(3, 32\), \(n, 48\) needed"):
        session.ecc_sign_many(key, random_rows(3, 32), HashAlgorithm.Sha384)
    with pytest.raises(ArgumentTypeError, match="digests: an array of bytes"):
        session.ecc_sign_many(key, [bytes(32)])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="ivs: 2 rows, 3 needed"):
        session.aes_cbc_many(key, AesOp.Encrypt, random_rows(3, 16), random_rows(2, 16))
    with pytest.raises(RequestError):
        session.hmac_many(key, random_rows(2, 1025))
    assert len(session.ecc_sign_many(key, random_rows(3, 32)[:0])) == 0
    over = session.partition.open_session(CREDENTIAL)  # type: ignore[attr-defined]
    over.close()
    with pytest.raises(SessionClosedError):
        over.ecc_sign_many(key, random_rows(3, 32))


class Altering:
    """A transport of arrays that changes what comes back."""

    def __init__(self, transport: Any, change: Any) -> None:
        self._transport, self._change = transport, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def exchange_many(self, messages: Octets, *rest: Any, check: Callable[[], object]) -> Replies:
        replies: Replies = self._transport.exchange_many(messages, *rest, check=check)
        self._change(replies)
        return replies

    async def exchange_many_async(self, messages: Octets, *rest: Any, check: Callable[[], object]) -> Replies:
        replies: Replies = await self._transport.exchange_many_async(messages, *rest, check=check)
        self._change(replies)
        return replies


def sign_awaited(session: Session, key: Key, digests: Octets) -> Octets:
    return asyncio.run(AsyncSession(session).ecc_sign_many(key, digests))


@pytest.mark.parametrize("ask", [Session.ecc_sign_many, sign_awaited])
def test_each_failure_is_told_by_its_position(session: Session, ask: Callable[[Session, Key, Octets], Octets]) -> None:
    channel = session.partition.channel
    transport = channel._transport
    if not hasattr(transport, "exchange_many"):
        pytest.skip("takes no arrays")
    header = ReqHdr(rev=API_REV, op=operation_of(REQUESTS[0][0]).op, sess_id=session.session_id)

    def change(replies: Replies) -> None:
        for position in (0, 7):
            replies.put(position, encode_error(DdiStatus.KeyNotFound, header, session_id=session.session_id))
        replies.put(5, b"no message")
        replies.lengths[8] = 0
        replies.errors[8] = QueueClosedError("gone")

    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    digests = random_rows(10, 32)
    try:
        channel._transport = Altering(transport, change)
        with pytest.raises(BatchError, match="4 of 10 commands failed, the first at 0: EccSign: KeyNotFound") as caught:
            ask(session, key, digests)
    finally:
        channel._transport = transport
    kinds = {position: type(error) for position, error in caught.value.errors.items()}
    assert kinds == {0: StatusError, 5: ResponseError, 7: StatusError, 8: QueueClosedError}
    (signatures,) = caught.value.results
    assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
    for position, digest in enumerate(digests):
        if position in kinds:
            assert not signatures[position].any()
        else:
            der = der_signature(signatures[position].tobytes())
            key.public_key.verify(der, digest.tobytes(), ec.ECDSA(Prehashed(HASHES[HashAlgorithm.Sha256]())))


class ClosedMeanwhile:
    """A transport of arrays whose session is closed, and perhaps its number given away, before they are sent."""

    def __init__(self, transport: Any, session: Session) -> None:
        self._transport, self._session = transport, session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def exchange_many(self, *arguments: Any, check: Callable[[], object]) -> Replies:
        self._session.abandon()
        replies: Replies = self._transport.exchange_many(*arguments, check=check)
        return replies

    async def exchange_many_async(self, *arguments: Any, check: Callable[[], object]) -> Replies:
        self._session.abandon()
        replies: Replies = await self._transport.exchange_many_async(*arguments, check=check)
        return replies


@pytest.mark.parametrize("ask", [Session.ecc_sign_many, sign_awaited])
def test_nothing_is_sent_for_a_session_that_was_closed(
    session: Session, ask: Callable[[Session, Key, Octets], Octets]
) -> None:
    """Its number may be another session's by now, and so may the key's."""
    channel = session.partition.channel
    transport = channel._transport
    if not hasattr(transport, "exchange_many"):
        pytest.skip("takes no arrays")
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    try:
        channel._transport = ClosedMeanwhile(transport, session)
        with pytest.raises(BatchError, match="10 of 10 commands failed") as caught:
            ask(session, key, random_rows(10, 32))
    finally:
        channel._transport = transport
        session.closed = False  # the device has it still
    assert all(isinstance(error, SessionClosedError) for error in caught.value.errors.values())


REQUESTS: list[tuple[MborMap, dict[str, int], type[MborMap], dict[str, int]]] = [
    (EccSignReq(key_id=7, digest=bytes(32), digest_algo=HashAlgorithm.Sha256), {"digest": 32}, EccSignResp,
     {"signature": 64}),
    (EccSignReq(key_id=7, digest=bytes(64), digest_algo=HashAlgorithm.Sha512), {"digest": 64}, EccSignResp,
     {"signature": 136}),
    (RsaModExpReq(key_id=7, y=bytes(512), op_type=RsaOpType.Sign), {"y": 512}, RsaModExpResp, {"x": 512}),
    (HmacReq(key_id=7, msg=bytes(1024)), {"msg": 1024}, HmacResp, {"tag": 48}),
    (AesEncryptDecryptReq(key_id=7, op=AesOp.Encrypt, msg=bytes(80), iv=bytes(16)), {"msg": 80, "iv": 16},
     AesEncryptDecryptResp, {"msg": 80, "iv": 16}),
]  # fmt: skip
"""Each with the sizes of what differs, and what is answered, in a device's form."""


@pytest.mark.parametrize("number", range(len(REQUESTS)))
@pytest.mark.parametrize("session_id", [1, 0xFFFF])
def test_requests_are_those_of_the_encoder(kind: DeviceKind, number: int, session_id: int) -> None:
    request, sizes, response, _ = REQUESTS[number]
    dialect = Dialect(kind)
    columns = {name: random_rows(5, size) for name, size in sizes.items()}
    found = CallMany(request, columns, response, ()).messages(session_id, API_REV, dialect)
    for position, message in enumerate(found):
        fields = {name: column[position].tobytes() for name, column in columns.items()}
        single = type(request)(**{**request.__dict__, **fields})
        assert message.tobytes() == encoded(single, session_id, API_REV, dialect)


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_answers_are_those_of_the_decoder(data: st.DataObject) -> None:
    """Whatever is changed in a response: bytes, its length, or all of it."""
    request, sizes, response, answer_sizes = data.draw(st.sampled_from(REQUESTS))
    dialect = Dialect(data.draw(st.sampled_from(KINDS)))
    if dialect.kind is DeviceKind.Virtual and answer_sizes == {"signature": 136}:
        answer_sizes = {"signature": 132}
    operation, count = operation_of(request), 6
    header = RespHdr(
        rev=API_REV, op=operation.op, sess_id=3, status=DdiStatus.Success, fips_approved=data.draw(st.booleans())
    )
    replies = Replies.none_yet(count, 1200)
    for position in range(count):
        answer = response(**{name: os.urandom(size) for name, size in answer_sizes.items()})
        message = bytearray(encode_message(header, answer))
        for place, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(message) - 1), st.integers(0, 255)), max_size=2)
        ):
            message[place] = value
        replies.put(position, bytes(message[: data.draw(st.sampled_from([len(message), len(message) - 1, 0]))]))
    columns = {name: np.zeros((count, size), np.uint8) for name, size in sizes.items()}
    found = CallMany(request, columns, response, tuple(answer_sizes)).answers(replies, dialect)
    for position in range(count):
        expected = outcome(lambda position=position: decoded(operation, replies.message(position), response, dialect))
        problem = found.errors.get(position)
        if isinstance(expected, IhsmError):
            assert str(problem) == str(expected)
        elif problem is not None:  # of another size than those before: a row has no room for it
            assert "that of others has" in str(problem)
        else:
            for name in answer_sizes:
                assert found.columns[name][position].tobytes() == getattr(expected, name)


def outcome(decode: Callable[[], MborMap]) -> MborMap | IhsmError:
    try:
        return decode()
    except IhsmError as error:
        return error


def test_what_only_moves_bytes_is_told_from_what_changes_them() -> None:
    image, found = origins(lambda data: b"\x07" + data[::-1] + b"\0", 300)
    assert image[0] == 7
    assert found.tolist() == [-1, *range(299, -1, -1), -1]
    for change in (
        lambda data: bytes(byte ^ 1 for byte in data),
        lambda data: data + data[: data[0]],
        lambda data: bytes(byte & 0x7F for byte in data),
        lambda data: bytes([sum(data) & 0xFF]) + data,
        sorted,
    ):
        with pytest.raises(NoTemplateError):
            origins(lambda data, change=change: bytes(change(data)), 100)
