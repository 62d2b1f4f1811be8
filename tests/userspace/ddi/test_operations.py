# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every operation by the typed client, in both dialects, straight into a security module and over a vfio-user socket.

A second library is the judge of every value.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from ihsm.ddi import (
    Credential,
    Key,
    KeyInfo,
    KeyRequest,
    Partition,
    Session,
    SoftwareTrustAnchor,
    StatusError,
    verify_report,
)
from ihsm.ddi.pota import der_signature
from ihsm.ddi.wrapping import HASHES
from ihsm.errors import ArgumentError, SessionClosedError
from ihsm_abi.ddi import (
    AesKeySize,
    AesOp,
    CloseSessionReq,
    CloseSessionResp,
    DdiStatus,
    DeviceKind,
    EccCurve,
    HashAlgorithm,
    KeyAttributeFlags,
    KeyClass,
    KeyType,
    KeyUsage,
    RsaOpType,
)
from ihsm_abi.ddi.attestation import AttestationFlags
from ihsm_abi.ddi.limits import BK3_BYTES, MAX_SESSIONS
from support.ddi_replay import lines
from support.waiting import ended
from support.ways import WAYS, Connection, Way

CREDENTIAL = Credential(b"application id 1", b"personal number.")
ANCHOR = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
BK3 = os.urandom(BK3_BYTES)
SIGN = KeyRequest(KeyUsage.SignVerify)
ENCRYPT = KeyRequest(KeyUsage.EncryptDecrypt)
DERIVE = KeyRequest(KeyUsage.Derive)
CURVES: dict[EccCurve, tuple[ec.EllipticCurve, HashAlgorithm]] = {
    EccCurve.P256: (ec.SECP256R1(), HashAlgorithm.Sha256),
    EccCurve.P384: (ec.SECP384R1(), HashAlgorithm.Sha384),
    EccCurve.P521: (ec.SECP521R1(), HashAlgorithm.Sha512),
}


@pytest.fixture(scope="module", params=[DeviceKind.Virtual, DeviceKind.Physical], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> DeviceKind:
    kind: DeviceKind = request.param
    return kind


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, kind: DeviceKind) -> Iterator[Way]:
    with WAYS[request.param](kind) as way:
        yield way


@pytest.fixture
def connection(way: Way) -> Iterator[Connection]:
    with way.connect() as connection:
        yield connection


@pytest.fixture
def partition(connection: Connection) -> Partition:
    partition = Partition(connection.transport)
    partition.establish_credential(CREDENTIAL, partition.init_bk3(BK3).masked_bk3, ANCHOR)
    return partition


@pytest.fixture
def session(partition: Partition) -> Session:
    return partition.open_session(CREDENTIAL)


@functools.cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """One of the recorded keys: making them takes seconds."""
    material = lines("crypto-conversations.jsonl")[0]["keys"][f"rsa{bits}"]
    key = load_der_private_key(bytes.fromhex(material), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def digest_of(algorithm: HashAlgorithm, message: bytes) -> bytes:
    digest = hashes.Hash(HASHES[algorithm]())
    digest.update(message)
    return digest.finalize()


def assert_signs(session: Session, key: Key, algorithm: HashAlgorithm) -> None:
    digest = digest_of(algorithm, b"message")
    signature = der_signature(session.ecc_sign(key, digest, algorithm))
    assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
    key.public_key.verify(signature, digest, ec.ECDSA(Prehashed(HASHES[algorithm]())))


def test_the_chain_verifies_and_the_device_knows_itself(partition: Partition, kind: DeviceKind) -> None:
    chain = partition.certificate_chain()
    chain.verify([chain.certificates[0]])
    assert len(chain.der) >= 2
    assert partition.info().kind is kind
    assert chain.identity_key.public_numbers() == partition.identity_key().public_numbers()


def test_sealed_bk3(connection: Connection) -> None:
    partition = Partition(connection.transport)
    assert not partition.is_provisioned()
    assert partition.sealed_bk3() is None
    partition.set_sealed_bk3(b"sealed")
    assert partition.sealed_bk3() == b"sealed"


@pytest.mark.parametrize("curve", CURVES)
def test_signatures(session: Session, curve: EccCurve) -> None:
    key = session.generate_ecc_key(curve, KeyRequest(KeyUsage.SignVerify, label=b"label"))
    info = KeyInfo.of(key.masked_key)
    assert (info.key_type, info.label) == (key.key_type, b"label")
    assert info.flags == KeyAttributeFlags.LOCAL | KeyAttributeFlags.SIGN | KeyAttributeFlags.VERIFY
    assert_signs(session, key, CURVES[curve][1])


@pytest.mark.parametrize("size", [AesKeySize.Aes128, AesKeySize.Aes192, AesKeySize.Aes256])
def test_aes_cbc(session: Session, size: AesKeySize) -> None:
    key = session.generate_aes_key(size, ENCRYPT)
    data, iv = os.urandom(2000), os.urandom(16)
    ciphertext, _ = session.aes_cbc(key, AesOp.Encrypt, data, iv)
    assert session.aes_cbc(key, AesOp.Decrypt, ciphertext, iv)[0] == data
    assert ciphertext != data


@pytest.mark.parametrize("length", [16, 24, 32])
def test_imported_aes_keys(session: Session, length: int) -> None:
    secret, iv, data = os.urandom(length), os.urandom(16), os.urandom(64)
    key = session.import_key(secret, KeyClass.Aes, ENCRYPT)
    expected = Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor().update(data)
    assert session.aes_cbc(key, AesOp.Encrypt, data, iv)[0] == expected


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("algorithm", [HashAlgorithm.Sha1, HashAlgorithm.Sha512])
def test_imported_ecc_keys(session: Session, curve: EccCurve, algorithm: HashAlgorithm) -> None:
    own = ec.generate_private_key(CURVES[curve][0])
    payload = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    key = session.import_key(payload, KeyClass.Ecc, SIGN, hash_algorithm=algorithm)
    assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
    assert key.public_key.public_numbers() == own.public_key().public_numbers()
    assert_signs(session, key, CURVES[curve][1])


@pytest.mark.parametrize("bits", [2048, 3072, 4096])
@pytest.mark.parametrize("key_class", [KeyClass.Rsa, KeyClass.RsaCrt])
def test_imported_rsa_keys(session: Session, bits: int, key_class: KeyClass) -> None:
    own = rsa_key(bits)
    payload = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    key = session.import_key(payload, key_class, ENCRYPT)
    assert isinstance(key.public_key, rsa.RSAPublicKey)
    assert key.public_key.public_numbers() == own.public_key().public_numbers()
    numbers = own.private_numbers()
    n = numbers.public_numbers.n
    y = 3
    x = session.rsa_mod_exp(key, y.to_bytes(bits // 8, "big"), RsaOpType.Decrypt)
    assert int.from_bytes(x, "big") == pow(y, numbers.d, n)


def test_rsa_signature_padded_by_the_host(session: Session) -> None:
    own = rsa_key(2048)
    payload = own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    key = session.import_key(payload, KeyClass.Rsa, SIGN)
    reference = own.sign(b"message", padding.PKCS1v15(), hashes.SHA256())
    numbers = own.public_key().public_numbers()
    padded = pow(int.from_bytes(reference, "big"), numbers.e, numbers.n).to_bytes(256, "big")
    assert session.rsa_mod_exp(key, padded, RsaOpType.Sign) == reference


SECRETS = {
    EccCurve.P256: KeyType.Secret256,
    EccCurve.P384: KeyType.Secret384,
    EccCurve.P521: KeyType.Secret521,
}
HMAC_TYPES = {
    HashAlgorithm.Sha256: (KeyType.HmacSha256, 32),
    HashAlgorithm.Sha384: (KeyType.HmacSha384, 48),
    HashAlgorithm.Sha512: (KeyType.HmacSha512, 64),
}


def agreed(session: Session, curve: EccCurve) -> tuple[Key, bytes]:
    """A secret shared with the device, and the same secret here."""
    peer = ec.generate_private_key(CURVES[curve][0])
    key = session.generate_ecc_key(curve, DERIVE)
    spki = peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = session.ecdh(key, spki, SECRETS[curve], DERIVE)
    assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
    return secret, peer.exchange(ec.ECDH(), key.public_key)


def assert_same_hmac(session: Session, key: Key, algorithm: HashAlgorithm, expected_key: bytes) -> None:
    mac = hmac.HMAC(expected_key, HASHES[algorithm]())
    mac.update(b"message")
    assert session.hmac(key, b"message") == mac.finalize()


@pytest.mark.parametrize("curve", CURVES)
def test_derivations_are_the_standards(session: Session, curve: EccCurve) -> None:
    secret, same = agreed(session, curve)
    for algorithm, (key_type, length) in HMAC_TYPES.items():
        for first, second in ((b"first", b"second"), (None, None)):
            derived = session.hkdf(secret, algorithm, key_type, SIGN, salt=first, info=second)
            expected = HKDF(HASHES[algorithm](), length, first, second or b"").derive(same)
            assert_same_hmac(session, derived, algorithm, expected)
            derived = session.kbkdf(secret, algorithm, key_type, SIGN, label=first, context=second)
            expected = KBKDFHMAC(
                HASHES[algorithm](), Mode.CounterMode, length, 4, 4, CounterLocation.BeforeFixed, first, second, None
            ).derive(same)
            assert_same_hmac(session, derived, algorithm, expected)


def test_variable_length_hmac_keys(session: Session) -> None:
    secret, same = agreed(session, EccCurve.P256)
    request = KeyRequest(KeyUsage.SignVerify, session=True)
    derived = session.hkdf(secret, HashAlgorithm.Sha256, KeyType.VarHmac256, request, key_length=57)
    expected = HKDF(hashes.SHA256(), 57, None, b"").derive(same)
    assert_same_hmac(session, derived, HashAlgorithm.Sha256, expected)


def test_attestation(partition: Partition, session: Session) -> None:
    chain = partition.certificate_chain()
    chain.verify()
    key = session.generate_ecc_key(EccCurve.P521, SIGN)
    for attested in (key, session.unwrapping_key()):
        report = verify_report(session.attest(attested, b"data" * 32), chain.identity_key, report_data=b"data" * 32)
        assert report.app_uuid == CREDENTIAL.id
        assert report.public_key is not None
        assert report.public_key.public_numbers() == attested.public_key.public_numbers()
    assert report.flags == AttestationFlags.GENERATED | AttestationFlags.UNWRAP
    symmetric = session.generate_aes_key(AesKeySize.Aes256, ENCRYPT)
    report = verify_report(session.attest(symmetric, bytes(128)), chain.identity_key)
    assert report.public_key is None
    assert report.flags == AttestationFlags.GENERATED | AttestationFlags.ENCRYPT | AttestationFlags.DECRYPT


def test_tags_and_deletion(session: Session) -> None:
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify, tag=7))
    found = session.open_key(7)
    assert (found.key_id, found.key_type, found.public_key_der) == (key.key_id, key.key_type, key.public_key_der)
    session.delete_key(key)
    with pytest.raises(StatusError) as refused:
        session.open_key(7)
    assert refused.value.status is DdiStatus.KeyNotFound


def test_everything_comes_back_after_a_reset(connection: Connection, partition: Partition) -> None:
    masked_bk3 = partition.init_bk3(BK3).masked_bk3
    connection.nssr()
    bmk = partition.establish_credential(CREDENTIAL, masked_bk3, ANCHOR)
    session = partition.open_session(CREDENTIAL)
    unwrapping = session.unwrapping_key()
    application = session.generate_ecc_key(EccCurve.P384, SIGN)
    own = session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt, session=True))
    iv = bytes(16)
    ciphertext, _ = session.aes_cbc(own, AesOp.Encrypt, b"sixteen bytes...", iv)
    connection.nssr()
    with pytest.raises(StatusError) as refused:
        session.unwrapping_key()
    assert refused.value.status is DdiStatus.SessionNeedsRenegotiation
    echoed = partition.establish_credential(
        CREDENTIAL,
        partition.init_bk3(BK3).masked_bk3,
        ANCHOR,
        bmk=bmk,
        masked_unwrapping_key=unwrapping.masked_key,
    )
    assert echoed == bmk
    session = partition.reopen_session(CREDENTIAL, session.ticket)
    restored = session.unmask(application.masked_key)
    assert restored.public_key_der == application.public_key_der
    assert_signs(session, restored, HashAlgorithm.Sha384)
    plain, _ = session.aes_cbc(session.unmask(own.masked_key), AesOp.Decrypt, ciphertext, iv)
    assert plain == b"sixteen bytes..."
    assert session.unwrapping_key().public_key_der == unwrapping.public_key_der
    session.close()


@pytest.mark.parametrize("digest", [b"", b"s" * 20, b"s" * 31, b"s" * 33, b"a whole message instead of its hash"])
def test_what_is_no_digest_is_not_signed(session: Session, digest: bytes) -> None:
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    with pytest.raises(ArgumentError, match=f"ecc_sign: digest: {len(digest)} bytes, a Sha256 digest has 32"):
        session.ecc_sign(key, digest, HashAlgorithm.Sha256)


def test_a_hash_that_is_none_is_refused(session: Session) -> None:
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    with pytest.raises(ArgumentError, match="ecc_sign: hash_algorithm"):
        session.ecc_sign(key, bytes(32), HashAlgorithm(99))


def test_a_number_is_signed_as_it_is(session: Session) -> None:
    """20 bytes labelled with a hash of 32: the device signs the number (spec 05 §9)."""
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    number = os.urandom(20)
    signature = der_signature(session.ecc_sign_number(key, number, HashAlgorithm.Sha256))
    assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
    key.public_key.verify(signature, number, ec.ECDSA(Prehashed(hashes.SHA1())))


def test_the_fast_path_ends_with_its_session(partition: Partition, connection: Connection) -> None:
    """However it ends: by `close`, under another session of its id, with the credential."""
    closed, lost, kept = (partition.open_session(CREDENTIAL) for _ in range(3))
    assert closed.fast_path.ids == (closed.session_id, closed.short_app_id)
    closed.close()
    assert [session.fast_path.ended for session in (closed, lost, kept)] == [True, False, False]
    with pytest.raises(SessionClosedError, match="CloseSessionReq: session 0"):
        closed.call(CloseSessionReq(), CloseSessionResp)
    assert partition.open_session(CREDENTIAL).session_id == closed.session_id
    connection.nssr()
    partition.establish_credential(CREDENTIAL, partition.init_bk3(BK3).masked_bk3, ANCHOR)
    assert [session.fast_path.ended for session in (closed, lost, kept)] == [True, True, True]


def test_the_fast_path_of_a_session_that_was_reopened(partition: Partition, connection: Connection) -> None:
    bmk_owner = partition.init_bk3(BK3).masked_bk3
    session = partition.open_session(CREDENTIAL)
    connection.nssr()
    partition.establish_credential(CREDENTIAL, bmk_owner, ANCHOR)
    again = partition.open_session(CREDENTIAL)
    taken = partition.open_session(CREDENTIAL)
    again.call(CloseSessionReq(), CloseSessionResp)  # behind the object's back
    new = partition.open_session(CREDENTIAL)
    assert (new.session_id, taken.fast_path.ended, again.fast_path.ended) == (again.session_id, False, True)
    assert session.fast_path.ended


def test_a_new_pin(partition: Partition, session: Session) -> None:
    session.change_pin(b"another number..")
    with pytest.raises(StatusError) as refused:
        partition.open_session(CREDENTIAL)
    assert refused.value.status is DdiStatus.InvalidAppCredentials
    partition.open_session(Credential(CREDENTIAL.id, b"another number..")).close()


def test_clients_race_for_sessions(partition: Partition) -> None:
    """Twelve threads want one of eight sessions; twelve attempts suffice, as every lost race is another's win."""
    sessions: list[Session] = []
    refusals: list[DdiStatus] = []

    def client() -> None:
        try:
            sessions.append(partition.open_session(CREDENTIAL))
        except StatusError as error:
            refusals.append(error.status)

    threads = [threading.Thread(target=client) for _ in range(12)]
    for thread in threads:
        thread.start()
    ended(*threads)
    assert {session.session_id for session in sessions} == set(range(MAX_SESSIONS))
    assert refusals == [DdiStatus.VaultSessionLimitReached] * 4
    for session in sessions:
        session.close()
