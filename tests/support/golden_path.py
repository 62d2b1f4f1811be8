# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The golden path of a device with a state directory (spec 04 §14): walked by a client, then checked value by value.

`walk` needs nothing of the device, so that it runs in a guest too; its record goes to `check`, which computes every
value from the device secret in the state directory, independently of the device.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.ddi import Credential, Entropy, KeyRequest, Partition, Reply, SoftwareTrustAnchor, Transport
from ihsm.ddi.certificates import identity_key
from ihsm.ddi.pota import der_signature
from ihsm.ddi.transforms import Dialect, ecc_spki_to_raw
from ihsm_abi.ddi import (
    OPERATIONS,
    ApiRev,
    DdiOp,
    DeviceKind,
    EccCurve,
    HashAlgorithm,
    KeyAttributeFlags,
    KeyClass,
    KeyType,
    KeyUsage,
    RespHdr,
    decode_data,
    decode_request_header,
    decode_response,
)
from ihsm_abi.hsm_queue import ControlKind
from support import oracle, points

ID: Final = bytes(range(0x10, 0x20))
PIN: Final = bytes(range(0x20, 0x30))
SEED: Final = bytes(range(0x30, 0x60))
BK3: Final = bytes(range(48))
IV: Final = bytes(range(0xA0, 0xB0))
POTA_KEY: Final = ec.derive_private_key(int.from_bytes(b"\x33" * 48, "big"), ec.SECP384R1())
EPHEMERAL_SCALAR: Final = int.from_bytes(b"\x22" * 48, "big")
AES_KEY: Final = bytes(range(0x80, 0xA0))
DIGEST: Final = bytes(range(48))
SVN: Final = 1

Record = dict[str, Any]


class Recorder:
    """A transport that notes what passes through another."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.exchanges: list[Record] = []

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> Reply:
        reply = self._transport.exchange(message, kind, session_id)
        self.exchanges.append(
            {
                "request": message.hex(),
                "session": session_id,
                "response": reply.message.hex(),
                "completion": [reply.session_id, reply.short_app_id, reply.session_closed],
            }
        )
        return reply


def walk(transport: Transport, nssr: Callable[[], None]) -> list[Record]:
    """From power-on to an open session, its keys, a reset and back; the exchanges, for `check`."""
    recorder = Recorder(transport)
    entropy = Entropy(
        ephemeral_key=lambda: ec.derive_private_key(EPHEMERAL_SCALAR, ec.SECP384R1()), random=lambda size: IV[:size]
    )
    partition = Partition(recorder, entropy=entropy)
    credential, anchor = Credential(ID, PIN), SoftwareTrustAnchor(POTA_KEY)
    partition.api_revisions()
    partition.certificate_chain().verify()
    masked_bk3 = partition.init_bk3(BK3).masked_bk3
    bmk = partition.establish_credential(credential, masked_bk3, anchor)
    session = partition.open_session(credential, seed=SEED)
    unwrapping = session.unwrapping_key()
    imported = session.import_key(AES_KEY, KeyClass.Aes, KeyRequest(KeyUsage.EncryptDecrypt, label=b"imported"))
    private = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify, session=True))
    session.ecc_sign(private, DIGEST, HashAlgorithm.Sha384)
    nssr()
    partition.establish_credential(credential, masked_bk3, anchor, bmk=bmk, masked_unwrapping_key=unwrapping.masked_key)
    session = partition.reopen_session(credential, session.ticket)
    session.unwrapping_key()
    session.unmask(imported.masked_key)
    session.ecc_sign(session.unmask(private.masked_key), DIGEST, HashAlgorithm.Sha384)
    session.close()
    return recorder.exchanges


@dataclass(frozen=True)
class Exchange:
    """One recorded command: its request as it went over the wire, its response in host form."""

    op: DdiOp
    request: Any
    header: RespHdr
    response: Any
    request_session: int | None
    completion: tuple[int | None, int | None, bool]


def decode(records: list[Record], kind: DeviceKind) -> list[Exchange]:
    """Decode what `walk` recorded on a device of this kind; every command must have succeeded."""
    dialect, decoded = Dialect(kind), []
    for record in records:
        message = bytes.fromhex(record["request"])
        header, start = decode_request_header(message)
        operation = OPERATIONS[header.op]
        wire, _ = decode_data(operation.request, message, start)
        response_header, response = decode_response(bytes.fromhex(record["response"]), operation.response)
        assert response is not None, (header.op, response_header)
        session, short, closed = record["completion"]
        decoded.append(
            Exchange(
                op=operation.op,
                request=wire,
                header=response_header,
                response=dialect.to_host(response),
                request_session=header.sess_id,
                completion=(session, short, closed),
            )
        )
    return decoded


def device_hierarchy(state: Path) -> oracle.Hierarchy:
    """The keys that follow from BK3 and the device secret in a state directory (spec 06 §1.9)."""
    secret = (state / "device.secret").read_bytes()[-80:-32]  # followed by its hash
    stick = oracle.kbkdf(secret, b"BKS1Key", b"", 48)
    for _ in range(63):  # one for every leading zero bit of the security version number 1
        stick = oracle.kbkdf(stick, b"BKS1Key", bytes(48), 48)
    return oracle.Hierarchy(BK3, oracle.kbkdf(stick, b"BKS", b"", 32), oracle.kbkdf(secret, b"BKS2Key", b"", 32))


def boot_key(state: Path, hierarchy: oracle.Hierarchy, constant: bytes) -> bytes:
    """BK_BOOT of function 0, which masks BK3; `constant` is the device's input of BKX."""
    record = json.loads((state / "partition-0.json").read_text())
    bkx = oracle.kbkdf(constant, b"BK_BOOT_MK_DEFAULT", hierarchy.bks1 + hierarchy.bks2)
    return oracle.open_masked(bytes.fromhex(record["bk_boot"]), bkx).key


def check(records: list[Record], kind: DeviceKind, state: Path) -> None:
    """Compare every value of a walk with what the secrets make it be."""
    from ihsm_device.hsm.identity.hierarchy import BKX_CONSTANT

    checker = _Checker(decode(records, kind), kind, device_hierarchy(state))
    checker.identity()
    checker.provisioning(boot_key(state, checker.hierarchy, BKX_CONSTANT))
    checker.session()
    checker.keys()
    checker.reset_and_return()


class _Checker:
    def __init__(self, exchanges: list[Exchange], kind: DeviceKind, hierarchy: oracle.Hierarchy) -> None:
        self._all = exchanges
        self._kind = kind
        self.hierarchy = hierarchy
        self._client = ec.derive_private_key(EPHEMERAL_SCALAR, ec.SECP384R1())
        self._masking_key = b""
        self._session_key = b""

    def _of(self, op: DdiOp) -> list[Exchange]:
        return [exchange for exchange in self._all if exchange.op == op]

    def identity(self) -> None:
        """Steps 2 and 4 of the table."""
        revisions = self._of(DdiOp.GetApiRev)[0].response
        assert (revisions.min, revisions.max) == (ApiRev(major=1, minor=0), ApiRev(major=1, minor=0))
        info = self._of(DdiOp.GetDeviceInfo)[0].response
        assert (info.kind, info.tables, info.fips_approved) == (self._kind, 1, False)
        self._identity = identity_key(self._of(DdiOp.GetCertificate)[-1].response.certificate)

    def provisioning(self, bk_boot: bytes) -> None:
        """Steps 3 and 5 to 14."""
        masked_bk3 = oracle.open_masked(self._of(DdiOp.InitBk3)[0].response.masked_bk3, bk_boot)
        assert (masked_bk3.key, masked_bk3.metadata.svn, masked_bk3.metadata.key_label) == (BK3, SVN, b"BK3")
        offered, sent = self._of(DdiOp.GetEstablishCredEncryptionKey)[0], self._of(DdiOp.EstablishCredential)[0]
        credential = sent.request.encrypted_credential
        plain = self._opened(offered, credential, credential.encrypted_id + credential.encrypted_pin)
        assert plain == ID + PIN
        half = len(sent.request.pota_sig) // 2
        r, s = sent.request.pota_sig[:half], sent.request.pota_sig[half:]
        signature = r[::-1] + s[::-1] if self._kind is DeviceKind.Physical else r + s
        POTA_KEY.public_key().verify(
            der_signature(signature), points.spki(self._identity)[-97:], ec.ECDSA(hashes.SHA384())
        )
        bmk = oracle.open_masked(
            sent.response.bmk, self.hierarchy.partition_backup_key(points.spki(POTA_KEY.public_key()))
        )
        assert (bmk.metadata.key_type, bmk.metadata.key_label) == (KeyType.AesCbc256Hmac384, b"MK")
        self._masking_key = bmk.key
        assert sent.completion == (None, None, False)

    def _opened(self, offered: Exchange, credential: Any, ciphertext: bytes) -> bytes:
        """What a client encrypted for a device key, whose signature is checked, and so is the tag."""
        key = load_der_public_key(offered.response.pub_key.der)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self._identity.verify(
            der_signature(offered.response.pub_key_signature),
            ecc_spki_to_raw(offered.response.pub_key.der),
            ec.ECDSA(hashes.SHA384()),
        )
        assert (credential.nonce, credential.iv) == (offered.response.nonce, IV)
        aes_key, mac_key = oracle.channel_keys(self._client.exchange(ec.ECDH(), key), credential.nonce)
        assert oracle.hmac_sha384(mac_key, ciphertext + IV + credential.nonce) == credential.tag
        return oracle.aes_cbc(aes_key, IV, ciphertext, encrypt=False)

    def session(self) -> None:
        """Steps 15 to 21."""
        offered, sent = self._of(DdiOp.GetSessionEncryptionKey)[0], self._of(DdiOp.OpenSession)[0]
        established = self._of(DdiOp.GetEstablishCredEncryptionKey)[0]
        assert offered.response.nonce != established.response.nonce
        assert offered.response.pub_key != established.response.pub_key
        credential = sent.request.encrypted_credential
        ciphertext = credential.encrypted_id + credential.encrypted_pin + credential.encrypted_seed
        assert self._opened(offered, credential, ciphertext) == ID + PIN + SEED
        self._session_key = self._session_masking_key(sent.response.bmk_session)
        assert (sent.response.sess_id, sent.response.short_app_id, sent.header.sess_id) == (0, 0, 0)
        assert sent.completion == (0, 0, False)

    def _session_masking_key(self, bmk_session: bytes) -> bytes:
        opened = oracle.open_masked(bmk_session, self.hierarchy.session_backup_key(SEED))
        assert (opened.metadata.key_type, opened.metadata.key_label) == (KeyType.AesCbc256Hmac384, b"SMK")
        return opened.key

    def keys(self) -> None:
        """Step 22: keys of the partition under MK, keys of the session under its own."""
        unwrapping = self._of(DdiOp.GetUnwrappingKey)[0]
        public: Any = load_der_public_key(unwrapping.response.pub_key.der)
        masked = oracle.open_masked(unwrapping.response.masked_key, self._masking_key)
        assert int.from_bytes(masked.key[256:512], "little") == public.public_numbers().n
        imported = oracle.open_masked(self._of(DdiOp.RsaUnwrap)[0].response.masked_key, self._masking_key)
        assert (imported.key, imported.metadata.key_label) == (AES_KEY, b"imported")
        assert imported.metadata.key_attributes.flags == KeyAttributeFlags.ENCRYPT | KeyAttributeFlags.DECRYPT
        made = self._of(DdiOp.EccGenerateKeyPair)[0]
        private = oracle.open_masked(made.response.masked_key, self._session_key)
        scalar = int.from_bytes(private.key, "little")
        own = ec.derive_private_key(scalar, ec.SECP384R1()).public_key()
        assert points.spki(own) == made.response.pub_key.der
        for signed in self._of(DdiOp.EccSign):
            own.verify(der_signature(signed.response.signature), DIGEST, ec.ECDSA(Prehashed(hashes.SHA384())))
            assert (signed.request_session, signed.header.sess_id, signed.completion[0]) == (0, 0, 0)

    def reset_and_return(self) -> None:
        """Steps 24 and 25."""
        first, second = self._of(DdiOp.EstablishCredential)
        assert second.response.bmk == second.request.bmk == first.response.bmk
        offered = self._of(DdiOp.GetEstablishCredEncryptionKey)
        assert offered[0].response.pub_key != offered[1].response.pub_key
        assert offered[0].response.nonce != offered[1].response.nonce
        reopened = self._of(DdiOp.ReopenSession)[0]
        assert (reopened.response.sess_id, reopened.header.sess_id, reopened.completion) == (0, 0, (0, 0, False))
        assert self._session_masking_key(reopened.response.bmk_session) == self._session_key
        assert len({exchange.response.pub_key.der for exchange in self._of(DdiOp.GetUnwrappingKey)}) == 1
        for unmasked, masking_key, value in zip(
            self._of(DdiOp.UnmaskKey), (self._masking_key, self._session_key), (AES_KEY, None), strict=True
        ):
            opened = oracle.open_masked(unmasked.response.masked_key, masking_key)
            original = oracle.open_masked(unmasked.request.masked_key, masking_key)
            assert opened.key == original.key == (value or original.key)
        closed = self._of(DdiOp.CloseSession)[0]
        assert closed.completion[2]
