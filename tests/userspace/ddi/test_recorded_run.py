# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The typed client repeats a recorded run of 67 commands, byte for byte, in both dialects.

Its secrets are those of the recording, so every request must come out identical: provisioning, sessions, every
operation on keys, a reset, reopening.
"""

import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.ddi import (
    Credential,
    Key,
    KeyInfo,
    KeyRequest,
    Partition,
    Session,
    StatusError,
    verify_report,
)
from ihsm.ddi.certificates import identity_key
from ihsm.ddi.pota import SoftwareTrustAnchor, der_signature, endorse
from ihsm.ddi.transforms import ecc_spki_to_raw
from ihsm.ddi.wrapping import HASHES
from ihsm_abi.ddi import (
    AesKeySize,
    AesOp,
    ApiRev,
    DdiStatus,
    DeviceKind,
    EccCurve,
    EstablishCredentialReq,
    GetCertificateResp,
    GetEstablishCredEncryptionKeyReq,
    GetEstablishCredEncryptionKeyResp,
    GetSessionEncryptionKeyResp,
    HashAlgorithm,
    KeyClass,
    KeyType,
    RsaOpType,
    decode_request,
    decode_response,
    encode_message,
)
from ihsm_abi.ddi.flags import TargetKeyFlags
from support.ddi_replay import INPUTS, VECTORS, RecordedRun, fixed_entropy, private_key

STEPS = [step for step in VECTORS["executed"]["steps"] if "request" in step]
CREDENTIAL = Credential(INPUTS["id"], INPUTS["pin"])
ENCRYPTION_KEYS: dict[str, Any] = {
    "GetEstablishCredEncryptionKey": GetEstablishCredEncryptionKeyResp,
    "GetSessionEncryptionKey": GetSessionEncryptionKeyResp,
}


def physical_key_responses() -> dict[int, bytes]:
    """The simulator signs no encryption key, which a physical dialect cannot carry: put some signature there."""
    made = {}
    for step in STEPS:
        if step["op"] in ENCRYPTION_KEYS and step["status"] == "Success":
            header, data = decode_response(bytes.fromhex(step["response"]), ENCRYPTION_KEYS[step["op"]])
            assert data is not None
            raw = dataclasses.replace(data.pub_key, der=ecc_spki_to_raw(data.pub_key.der))
            made[step["n"]] = encode_message(
                header, dataclasses.replace(data, pub_key=raw, pub_key_signature=bytes(96))
            )
    return made


def partition_certificate() -> bytes:
    """The certificate that the recorded device showed first."""
    step = next(step for step in STEPS if step["op"] == "GetCertificate")
    _, data = decode_response(bytes.fromhex(step["response"]), GetCertificateResp)
    assert data is not None
    return data.certificate


class RecordedAnchor:
    """Trust anchor that gives the recorded signatures, whose nonces are not known, after it has verified them."""

    def __init__(self, transport: RecordedRun) -> None:
        self.transport = transport

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return private_key(INPUTS["POTA scalar"]).public_key()

    def sign(self, message: bytes) -> bytes:
        remaining = self.transport.steps[self.transport.position :]
        step = next(step for step in remaining if step["op"] == "EstablishCredential")
        _, request = decode_request(bytes.fromhex(step["request"]))
        assert isinstance(request, EstablishCredentialReq)
        self.public_key().verify(der_signature(request.pota_sig), message, ec.ECDSA(hashes.SHA384()))
        return request.pota_sig


class Run:
    """The recorded run, asked for through the client; `wanted` is the data of the request that comes next."""

    def __init__(self, kind: DeviceKind) -> None:
        physical = kind is DeviceKind.Physical
        self.transport = RecordedRun(STEPS, physical, physical_key_responses() if physical else {})
        self.anchor = RecordedAnchor(self.transport)
        entropy = fixed_entropy(INPUTS["client ephemeral scalar"], INPUTS["iv"], INPUTS["seed"])
        self.partition = Partition(self.transport, entropy=entropy, verify_device_keys=not physical)

    @property
    def wanted(self) -> Any:
        return self.transport.upcoming()

    def request(self) -> KeyRequest:
        """The purpose of the key that is made next."""
        flags = self.wanted.key_properties.key_metadata.flags
        assert flags.usage is not None
        return KeyRequest(
            flags.usage,
            session=bool(flags & TargetKeyFlags.SESSION),
            tag=self.wanted.key_tag,
            label=self.wanted.key_properties.key_label,
        )

    def refused(self, status: DdiStatus) -> Any:
        return pytest.raises(
            StatusError, match=rf"{self.transport.steps[self.transport.position]['op']}: {status.name} "
        )


@pytest.fixture(params=[DeviceKind.Virtual, DeviceKind.Physical], ids=lambda kind: kind.name)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


@dataclasses.dataclass
class Made:
    """Keys that later parts of the run need."""

    unwrapping: Key
    signing: Key
    session_signing: Key
    hkdf_output: Key


def test_the_whole_run(run: Run) -> None:
    partition = run.partition
    masked_bk3, bmk = provision(run)
    session = partition.open_session(CREDENTIAL)
    assert (session.session_id, session.short_app_id) == (0, 0)
    made = use_generated_keys(run, session)
    use_imported_keys(run, session, made.unwrapping)
    find_and_restore(run, session, made)
    change_pin(run, session)

    # The reset is between these commands.
    with run.refused(DdiStatus.SessionNeedsRenegotiation):
        session.hmac(made.hkdf_output, b"abcde")
    backups = {"bmk": bmk, "masked_unwrapping_key": made.unwrapping.masked_key}
    assert partition.establish_credential(CREDENTIAL, masked_bk3, run.anchor, **backups) == bmk
    again = partition.reopen_session(CREDENTIAL, session.ticket)
    assert again.session_id == session.session_id
    restored = again.unmask(made.signing.masked_key)
    assert restored.public_key_der == made.signing.public_key_der
    sign(run, again, restored)
    assert again.unmask(made.session_signing.masked_key).public_key_der == made.session_signing.public_key_der
    assert again.unwrapping_key().public_key_der == made.unwrapping.public_key_der
    again.close()
    again.close()
    with run.refused(DdiStatus.InvalidArg):
        session.close()
    assert run.transport.position == len(STEPS)


def provision(run: Run) -> tuple[bytes, bytes]:
    partition = run.partition
    revisions = partition.api_revisions()
    assert revisions.min == revisions.max == ApiRev(major=1, minor=0)
    assert partition.info().kind is (DeviceKind.Physical if run.transport.physical else DeviceKind.Virtual)
    assert partition.sealed_bk3() is None
    masked_bk3 = partition.init_bk3(INPUTS["bk3"]).masked_bk3
    assert KeyInfo.of(masked_bk3).label == b"BK3"
    sealed = run.wanted.sealed_bk3
    partition.set_sealed_bk3(sealed)
    assert partition.sealed_bk3() == sealed
    with run.refused(DdiStatus.KeyTagAlreadyExists):
        partition.set_sealed_bk3(run.wanted.sealed_bk3)
    with run.refused(DdiStatus.CredentialsNotEstablished):
        partition.session_cipher()
    bmk = partition.establish_credential(CREDENTIAL, masked_bk3, run.anchor)
    assert KeyInfo.of(bmk).key_type is KeyType.AesCbc256Hmac384
    with run.refused(DdiStatus.KeyNotFound):
        partition.channel.call(GetEstablishCredEncryptionKeyReq(), GetEstablishCredEncryptionKeyResp)
    return masked_bk3, bmk


def sign(run: Run, session: Session, key: Key) -> None:
    """The signature that is recorded next, verified under the key's public half."""
    digest, algorithm = run.wanted.digest, run.wanted.digest_algo
    signature = der_signature(session.ecc_sign_number(key, digest, algorithm))
    assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
    key.public_key.verify(signature, digest, ec.ECDSA(Prehashed(HASHES[algorithm]())))


def use_generated_keys(run: Run, session: Session) -> Made:
    unwrapping = session.unwrapping_key()
    signing = session.generate_ecc_key(EccCurve.P256, run.request())
    info = KeyInfo.of(signing.masked_key)
    assert (info.key_type, info.tag) == (signing.key_type, 0x0101)
    derive = session.generate_ecc_key(EccCurve.P384, run.request())
    session_signing = session.generate_ecc_key(EccCurve.P521, run.request())
    sign(run, session, signing)
    sign(run, session, session_signing)
    with run.refused(DdiStatus.InvalidPermissions):
        session.ecc_sign_number(derive, run.wanted.digest, HashAlgorithm.Sha384)

    aes = session.generate_aes_key(AesKeySize.Aes128, run.request())
    bulk = session.generate_aes_key(AesKeySize.AesGcmBulk256, run.request())
    assert (aes.bulk_key_id, bulk.bulk_key_id) == (None, bulk.key_id)
    plain = bytes(range(48))
    ciphertext, last_block = session.aes_cbc(aes, AesOp.Encrypt, plain, INPUTS["iv"])
    assert last_block == ciphertext[-16:]
    assert session.aes_cbc(aes, AesOp.Decrypt, ciphertext, INPUTS["iv"]) == (plain, last_block)

    peer = private_key(INPUTS["client ephemeral scalar"]).public_key()
    spki = peer.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = session.ecdh(derive, spki, KeyType.Secret384, run.request())
    hkdf_output = session.hkdf(
        secret, HashAlgorithm.Sha384, KeyType.HmacSha384, run.request(), salt=b"salt-01", info=b"info-01"
    )
    session.hkdf(secret, HashAlgorithm.Sha256, KeyType.Aes256, run.request(), key_length=32)
    kbkdf_output = session.kbkdf(
        secret, HashAlgorithm.Sha256, KeyType.HmacSha256, run.request(), label=b"label-01", context=b"context-01"
    )
    assert len(session.hmac(hkdf_output, b"abcde")) == 48
    assert len(session.hmac(kbkdf_output, b"")) == 32
    return Made(unwrapping, signing, session_signing, hkdf_output)


def use_imported_keys(run: Run, session: Session, unwrapping: Key) -> None:
    def unwrap(key_class: KeyClass) -> Key:
        """The recorded blob: OAEP is random, so the client's own wrapping cannot give the same bytes."""
        algorithm = run.wanted.wrapped_blob_hash_algorithm
        return session.rsa_unwrap(
            unwrapping, run.wanted.wrapped_blob, key_class, run.request(), hash_algorithm=algorithm
        )

    aes = unwrap(KeyClass.Aes)
    encryptor = Cipher(
        algorithms.AES128(bytes.fromhex("00112233445566778899AABBCCDDEEFF")), modes.CBC(bytes(16))
    ).encryptor()
    message = bytes(range(16))
    assert session.aes_cbc(aes, AesOp.Encrypt, message, bytes(16))[0] == encryptor.update(message)
    ecc = unwrap(KeyClass.Ecc)
    scalar_seven = private_key(b"\x07").public_key()
    assert isinstance(ecc.public_key, ec.EllipticCurvePublicKey)
    assert ecc.public_key.public_numbers() == scalar_seven.public_numbers()
    rsa_key = unwrap(KeyClass.Rsa)
    assert isinstance(rsa_key.public_key, rsa.RSAPublicKey)
    assert rsa_key.public_key.public_numbers().n == int.from_bytes(INPUTS["RSA-2048 n"], "big")
    two = (2).to_bytes(256, "big")
    x = session.rsa_mod_exp(rsa_key, two, RsaOpType.Decrypt)
    assert pow(int.from_bytes(x, "big"), 65537, rsa_key.public_key.public_numbers().n) == 2
    with run.refused(DdiStatus.InvalidPermissions):
        session.rsa_mod_exp(rsa_key, two, RsaOpType.Sign)


def find_and_restore(run: Run, session: Session, made: Made) -> None:
    partition_identity = identity_key(partition_certificate())
    for key in (made.signing, made.unwrapping):
        report = session.attest(key, b"\x02" * 128)
        attested = verify_report(report, partition_identity, report_data=b"\x02" * 128).public_key
        assert attested is not None
        assert attested.public_numbers() == key.public_key.public_numbers()
    found = session.open_key(0x0101)
    assert (found.key_id, found.key_type) == (made.signing.key_id, made.signing.key_type)
    assert found.public_key_der == made.signing.public_key_der
    with run.refused(DdiStatus.KeyNotFound):
        session.open_key(0x0300)
    with run.refused(DdiStatus.KeyTagAlreadyExists):
        session.unmask(made.signing.masked_key)
    session.delete_key(made.signing)
    restored = session.unmask(made.signing.masked_key)
    assert restored.key_type is KeyType.Ecc256Private
    with run.refused(DdiStatus.AppNotFound):
        session.unmask(made.unwrapping.masked_key)
    with run.refused(DdiStatus.CannotDeleteInternalKeys):
        session.delete_key(made.unwrapping)


def change_pin(run: Run, session: Session) -> None:
    pin = bytes(range(0x80, 0x90))
    session.change_pin(pin)
    with pytest.raises(StatusError) as refused:
        run.partition.open_session(CREDENTIAL)
    assert refused.value.status is DdiStatus.InvalidAppCredentials
    with run.partition.open_session(Credential(CREDENTIAL.id, pin)) as second:
        assert second.session_id == 1


def test_endorsements_are_deterministic() -> None:
    """The anchor in software signs as RFC 6979 says; the vectors hold the same signature."""
    entry = next(m for m in VECTORS["messages"] if m["op"] == "EstablishCredential" and m["dialect"] == "virtual")
    identity = private_key(INPUTS["partition identity (attestation) scalar"]).public_key()
    signature, public_key = endorse(SoftwareTrustAnchor(private_key(INPUTS["POTA scalar"])), identity)
    assert signature.hex() == entry["data"]["pota_sig"]
    assert public_key.der.hex() == entry["data"]["pota_pub_key"]["der"]
