# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the client does by itself: retries, checks of the device's keys, chunks, refusals."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.ddi import Credential, DeviceKeyError, Key, KeyRequest, Partition, ResponseError, Session, StatusError
from ihsm.ddi.partition import NONCE_ATTEMPTS
from ihsm.ddi.pota import raw_signature
from ihsm.ddi.transforms import Dialect, ecc_spki_to_raw
from ihsm_abi.ddi import (
    AesEncryptDecryptReq,
    AesEncryptDecryptResp,
    AesOp,
    CloseSessionReq,
    CloseSessionResp,
    DdiStatus,
    DerPublicKey,
    DeviceKind,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    GetCertificateReq,
    GetCertificateResp,
    GetDeviceInfoReq,
    GetDeviceInfoResp,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    GetUnwrappingKeyReq,
    GetUnwrappingKeyResp,
    KeyClass,
    KeyType,
    KeyUsage,
    OpenSessionReq,
    OpenSessionResp,
    RsaUnwrapReq,
    RsaUnwrapResp,
)
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborEncodeError, MborMap
from support.certificates import certificate
from support.ddi_replay import RecordedReply, Responder

CREDENTIAL = Credential(bytes(range(1, 17)), bytes(range(17, 33)))
SESSION_KEY = ec.generate_private_key(ec.SECP384R1())
IDENTITY = ec.generate_private_key(ec.SECP384R1())
LEAF = certificate(2, ca=False, key=IDENTITY.public_key())


def spki(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def encryption_key(signer: ec.EllipticCurvePrivateKey | None) -> GetSessionEncryptionKeyResp:
    der = spki(SESSION_KEY)
    signature = b"" if signer is None else raw_signature(signer.sign(ecc_spki_to_raw(der), ec.ECDSA(hashes.SHA384())))
    return GetSessionEncryptionKeyResp(
        pub_key=DerPublicKey(der=der, key_kind=KeyType.Ecc384Public), nonce=bytes(32), pub_key_signature=signature
    )


def virtual(answers: Callable[[MborMap], MborMap | DdiStatus]) -> Responder:
    """A device of kind Virtual, so that the test's values travel unchanged."""

    def answer(request: MborMap) -> MborMap | DdiStatus:
        if isinstance(request, GetDeviceInfoReq):
            return GetDeviceInfoResp(kind=DeviceKind.Virtual, tables=1, fips_approved=False)
        if isinstance(request, GetCertChainInfoReq):
            return GetCertChainInfoResp(num_certs=1, thumbprint=bytes(32))
        if isinstance(request, GetCertificateReq):
            return GetCertificateResp(certificate=LEAF)
        return answers(request)

    return Responder(answer)


OPENED = OpenSessionResp(sess_id=3, short_app_id=0, bmk_session=b"blob")


def test_lost_nonces_are_tried_again() -> None:
    lost = [DdiStatus.NonceMismatch] * (NONCE_ATTEMPTS - 1)

    def answer(request: MborMap) -> MborMap | DdiStatus:
        if isinstance(request, GetSessionEncryptionKeyReq):
            return encryption_key(None)
        return lost.pop() if lost else OPENED

    transport = virtual(answer)
    assert Partition(transport).open_session(CREDENTIAL).session_id == 3
    seeds = {r.encrypted_credential.encrypted_seed for r in transport.requests if isinstance(r, OpenSessionReq)}
    assert len(seeds) == NONCE_ATTEMPTS


def test_retries_end() -> None:
    transport = virtual(
        lambda request: (
            encryption_key(None) if isinstance(request, GetSessionEncryptionKeyReq) else DdiStatus.NonceMismatch
        )
    )
    with pytest.raises(StatusError, match="NonceMismatch"):
        Partition(transport).open_session(CREDENTIAL)
    assert sum(isinstance(request, OpenSessionReq) for request in transport.requests) == NONCE_ATTEMPTS


def test_other_statuses_are_not_tried_again() -> None:
    transport = virtual(
        lambda request: (
            encryption_key(None) if isinstance(request, GetSessionEncryptionKeyReq) else DdiStatus.InvalidAppCredentials
        )
    )
    with pytest.raises(StatusError) as refused:
        Partition(transport).open_session(CREDENTIAL)
    assert refused.value.status is DdiStatus.InvalidAppCredentials
    assert sum(isinstance(request, OpenSessionReq) for request in transport.requests) == 1


def test_keys_signed_by_the_identity_are_accepted_and_others_not() -> None:
    signers = [IDENTITY, SESSION_KEY]
    transport = virtual(
        lambda request: encryption_key(signers.pop(0)) if isinstance(request, GetSessionEncryptionKeyReq) else OPENED
    )
    partition = Partition(transport)
    partition.open_session(CREDENTIAL)
    with pytest.raises(DeviceKeyError, match="not signed"):
        partition.open_session(CREDENTIAL)
    assert sum(isinstance(request, OpenSessionReq) for request in transport.requests) == 1


def test_a_new_identity_is_looked_up() -> None:
    """After a reset a simulator has another identity; the one read earlier no longer counts."""
    leaves = [certificate(2, ca=False), LEAF]

    def answer(request: MborMap) -> MborMap | DdiStatus:
        if isinstance(request, GetDeviceInfoReq):
            return GetDeviceInfoResp(kind=DeviceKind.Virtual, tables=1, fips_approved=False)
        if isinstance(request, GetCertChainInfoReq):
            return GetCertChainInfoResp(num_certs=1, thumbprint=bytes(32))
        if isinstance(request, GetCertificateReq):
            return GetCertificateResp(certificate=leaves.pop(0))
        return encryption_key(IDENTITY) if isinstance(request, GetSessionEncryptionKeyReq) else OPENED

    partition = Partition(Responder(answer))
    partition.identity_key()
    assert partition.open_session(CREDENTIAL).session_id == 3
    assert not leaves


def test_unknown_kinds_are_refused() -> None:
    answer = GetDeviceInfoResp(kind=DeviceKind(3), tables=1, fips_approved=False)
    with pytest.raises(ResponseError, match="kind 3"):
        Partition(Responder(lambda _: answer)).info()


class Garbage:
    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> RecordedReply:
        return RecordedReply(b"\x01\x02\x03")


def test_garbage_is_no_response() -> None:
    with pytest.raises(ResponseError, match="GetApiRev: response does not decode: ExpectedMap"):
        Partition(Garbage()).api_revisions()


def opened(answers: Callable[[MborMap], MborMap | DdiStatus]) -> tuple[Session, Responder]:
    transport = virtual(answers)
    return Session(Partition(transport), 3, 0, bytes(48), b""), transport


def aes_device(key: bytes) -> Callable[[MborMap], MborMap | DdiStatus]:
    """AES-CBC as the device does it: at most 1024 bytes, the last ciphertext block comes back as IV."""

    def answer(request: MborMap) -> MborMap | DdiStatus:
        assert isinstance(request, AesEncryptDecryptReq)
        cipher = Cipher(algorithms.AES128(key), modes.CBC(request.iv))
        if request.op is AesOp.Encrypt:
            result = cipher.encryptor().update(request.msg)
            return AesEncryptDecryptResp(msg=result, iv=result[-16:])
        return AesEncryptDecryptResp(msg=cipher.decryptor().update(request.msg), iv=request.msg[-16:])

    return answer


def test_long_data_is_chained() -> None:
    session, transport = opened(aes_device(bytes(16)))
    key, iv, data = Key(1, KeyType.Aes128), bytes(range(16)), bytes(range(256)) * 10 + bytes(16)
    whole = Cipher(algorithms.AES128(bytes(16)), modes.CBC(iv)).encryptor().update(data)
    ciphertext, last = session.aes_cbc(key, AesOp.Encrypt, data, iv)
    assert (ciphertext, last) == (whole, whole[-16:])
    assert session.aes_cbc(key, AesOp.Decrypt, ciphertext, iv) == (data, whole[-16:])
    assert sum(isinstance(request, AesEncryptDecryptReq) for request in transport.requests) == 6


def test_empty_data_is_the_devices_to_judge() -> None:
    session, _ = opened(lambda _: DdiStatus.InvalidArg)
    with pytest.raises(StatusError, match="InvalidArg"):
        session.aes_cbc(Key(1, KeyType.Aes128), AesOp.Encrypt, b"", bytes(16))
    with pytest.raises(ValueError, match="IV: 12 bytes"):
        session.aes_cbc(Key(1, KeyType.Aes128), AesOp.Encrypt, bytes(16), bytes(12))


def test_import_wraps_for_the_unwrapping_key() -> None:
    unwrapping = rsa.generate_private_key(65537, 2048)
    payload = bytes(range(32))

    def answer(request: MborMap) -> MborMap | DdiStatus:
        if isinstance(request, GetUnwrappingKeyReq):
            public = DerPublicKey(der=spki(unwrapping), key_kind=KeyType.Rsa2kPublic)
            return GetUnwrappingKeyResp(key_id=7, pub_key=public, masked_key=b"blob")
        assert isinstance(request, RsaUnwrapReq)
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        kek = unwrapping.decrypt(request.wrapped_blob[:256], oaep)
        assert aes_key_unwrap_with_padding(kek, request.wrapped_blob[256:]) == payload
        assert (request.key_id, request.key_tag, request.key_properties.key_label) == (7, 9, b"mine")
        return RsaUnwrapResp(key_id=8, kind=KeyType.Aes256, masked_key=b"masked")

    session, _ = opened(answer)
    key = session.import_key(payload, KeyClass.Aes, KeyRequest(KeyUsage.EncryptDecrypt, tag=9, label=b"mine"))
    assert key == Key(8, KeyType.Aes256, masked_key=b"masked")
    with pytest.raises(ValueError, match="wrapped key: 3264 bytes, at most 3072"):
        session.import_key(bytes(3000), KeyClass.Rsa, KeyRequest(KeyUsage.SignVerify))


def test_values_that_no_message_can_carry() -> None:
    session, transport = opened(lambda _: DdiStatus.Success)
    _ = session.partition.channel  # asks for the kind of device
    sent = len(transport.requests)
    with pytest.raises(MborEncodeError, match=r"HmacReq\.msg"):
        session.hmac(Key(1, KeyType.HmacSha256), bytes(1025))
    with pytest.raises(MborEncodeError, match="OpenKeyReq"):
        session.open_key(0x10000)
    assert len(transport.requests) == sent


def test_a_session_closes_itself_and_hides_no_error() -> None:
    session, transport = opened(lambda _: CloseSessionResp())
    with session:
        pass
    assert isinstance(transport.requests[-1], CloseSessionReq)
    session, _ = opened(lambda _: DdiStatus.SessionNotFound)
    with pytest.raises(KeyError), session:
        raise KeyError
    with pytest.raises(StatusError, match="SessionNotFound"), session:
        pass


def test_a_symmetric_key_has_no_public_half() -> None:
    with pytest.raises(ValueError, match="Aes128"):
        _ = Key(1, KeyType.Aes128).public_key


def test_seeds_stay_out_of_representations() -> None:
    session, _ = opened(lambda _: DdiStatus.InvalidArg)
    assert "seed" not in repr(session.ticket)


@pytest.mark.parametrize("signature_bytes", [0, 95, 97])
def test_an_unsigned_key_of_a_physical_device_gets_no_credential(signature_bytes: int) -> None:
    """Only a simulator sends none. The check holds by itself, without the transforms of a real device's messages."""
    offered = dataclasses.replace(encryption_key(IDENTITY), pub_key_signature=b"\1" * signature_bytes)
    requests: list[MborMap] = []

    def answer(request: MborMap) -> MborMap | DdiStatus:
        requests.append(request)
        if isinstance(request, GetDeviceInfoReq):
            return GetDeviceInfoResp(kind=DeviceKind.Physical, tables=1, fips_approved=False)
        return offered if isinstance(request, GetSessionEncryptionKeyReq) else OPENED

    partition = Partition(Responder(answer))
    partition.channel.dialect = Dialect()
    with pytest.raises(DeviceKeyError, match=f"signature of the encryption key has {signature_bytes} bytes"):
        partition.open_session(CREDENTIAL)
    assert not any(isinstance(request, OpenSessionReq) for request in requests)


def test_a_physical_device_that_sends_no_signature_is_refused() -> None:
    raw = DerPublicKey(der=ecc_spki_to_raw(spki(SESSION_KEY)), key_kind=KeyType.Ecc384Public)
    requests: list[MborMap] = []

    def answer(request: MborMap) -> MborMap | DdiStatus:
        requests.append(request)
        if isinstance(request, GetDeviceInfoReq):
            return GetDeviceInfoResp(kind=DeviceKind.Physical, tables=1, fips_approved=False)
        return GetSessionEncryptionKeyResp(pub_key=raw, nonce=bytes(32), pub_key_signature=b"")

    with pytest.raises(ResponseError, match="GetSessionEncryptionKey: response does not decode"):
        Partition(Responder(answer)).open_session(CREDENTIAL)
    assert not any(isinstance(request, OpenSessionReq) for request in requests)
