# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Two devices made from one state, one with the express lane and one without: the same keys under the same numbers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.partition import Partition as Client
from ihsm.ddi.pota import SoftwareTrustAnchor, der_signature
from ihsm.ddi.session import Session
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.admin import Psf
from ihsm_abi.ddi import AesKeySize, DdiOp, EccCurve, HashAlgorithm, KeyClass, KeyType, KeyUsage
from ihsm_abi.hsm_queue import ControlKind, HsmCommandWord, HsmStatus, SessionControl
from ihsm_abi.pci import PAGE_BYTES
from ihsm_device.hsm.command import HsmCompletion
from support.hsm import BK3, CREDENTIAL, POTA_KEY, SEED, ModuleReply
from support.polled import PolledDriver, hsm_sqe

QUEUE: Final = 1
FILL: Final = 0xA5
MASKED: Final = (
    *[DdiOp.EccSign] * 3,
    None,
    *[DdiOp.AesEncryptDecrypt] * 2,
    *[DdiOp.Hmac] * 3,
    None,
    None,
)
"""Operations of the keys that `first_life` leaves, in its order."""
SIGN, CRYPT, DERIVE = (KeyUsage.SignVerify, KeyUsage.EncryptDecrypt, KeyUsage.Derive)


@dataclass(frozen=True)
class Sent:
    """A command as it is put into the ring."""

    message: bytes
    control: int
    session_id: int
    opcode: int = 0
    psdt: int = 0
    source_bytes: int | None = None
    """What the entry says of the message's length, if not the truth."""
    destination_bytes: int = PAGE_BYTES


@dataclass(frozen=True)
class Seen:
    """What a client sees of the answer: the completion's fields, and the whole page that the response may be in."""

    sc: int
    byte_count: int
    control: int
    session_id: int
    short_app_id: int
    page: bytes

    @property
    def message(self) -> bytes:
        return self.page[: self.byte_count]


class RawTransport:
    """A typed client over one queue of a polled driver."""

    def __init__(self, driver: PolledDriver) -> None:
        self._driver = driver

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> ModuleReply:
        control = SessionControl.of(kind=kind, id_valid=session_id is not None)
        answer = self._driver.run_hsm(message, control=control, session_id=session_id or 0)
        fields = (answer.flags, answer.session_id, answer.short_app_id, HsmStatus(answer.sc))
        return ModuleReply(HsmCompletion(answer.message, *fields))


class RawDevice:
    """A served device and a driver that writes entries as they are given."""

    def __init__(self, arguments: Sequence[str]) -> None:
        with contextlib.ExitStack() as opened:
            self.device = opened.enter_context(contextlib.closing(EmbeddedDevice(arguments)))
            self.function = opened.enter_context(contextlib.closing(VfioUserFunction(self.device.socket_path)))
            self.driver = PolledDriver(self.function)
            self.driver.enable()
            self.driver.create_pair(QUEUE)
            self.client = Client(RawTransport(self.driver))
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, sent: Sent) -> Seen:
        """Put the command into the ring and wait for its completion."""
        driver = self.driver
        driver.page.view[: len(sent.message)] = np.frombuffer(sent.message, np.uint8)
        driver.answer_page.view[:PAGE_BYTES] = FILL
        entry = np.frombuffer(
            hsm_sqe(
                driver.next_cid(),
                source=driver.page.iova,
                source_bytes=len(sent.message) if sent.source_bytes is None else sent.source_bytes,
                destination=driver.answer_page.iova,
                destination_bytes=sent.destination_bytes,
                control=sent.control,
                session_id=sent.session_id,
            ),
            np.uint8,
        ).copy()
        entry[:4].view(np.uint32)[0] |= int(HsmCommandWord.of(opc=sent.opcode, psdt=sent.psdt))
        cqe = driver.rings[QUEUE].run(entry.tobytes())
        return Seen(
            Psf(cqe["psf"]).sc,
            *(int(cqe[name]) for name in ("byte_count", "control", "session_id", "short_app_id")),
            driver.answer_page.view[:PAGE_BYTES].tobytes(),
        )


def _der(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Material:
    """What the first life of the state leaves behind for both twins."""

    masked_bk3: bytes
    bmk: bytes
    masked_unwrapping_key: bytes
    masked: list[bytes]
    rsa_der: bytes = field(default_factory=lambda: _der(rsa.generate_private_key(65537, 2048)))
    ec_der: bytes = field(default_factory=lambda: _der(ec.generate_private_key(ec.SECP256R1())))
    aes: bytes = bytes(range(32))


def _ec_public(key: Key) -> ec.EllipticCurvePublicKey | None:
    public = None if key.public_key_der is None else key.public_key
    return public if isinstance(public, ec.EllipticCurvePublicKey) else None


@dataclass
class Subject:
    """A key of both twins: its number, and whose it is."""

    key_id: int
    operation: DdiOp | None
    """For which it was made, in the express lane; None: for another one."""
    public_key: ec.EllipticCurvePublicKey | None = None


def _anchor() -> SoftwareTrustAnchor:
    return SoftwareTrustAnchor(POTA_KEY)


def first_life(state: Path, options: Sequence[str]) -> Material:
    """Make the state, and keys whose masked forms both twins will unmask."""
    with RawDevice([*options, "--state", str(state)]) as device:
        masked_bk3 = device.client.init_bk3(BK3).masked_bk3
        bmk = device.client.establish_credential(CREDENTIAL, masked_bk3, _anchor())
        session = device.client.open_session(CREDENTIAL, seed=SEED)
        keys = [session.generate_ecc_key(curve, KeyRequest(SIGN)) for curve in EccCurve]
        keys.append(session.generate_ecc_key(EccCurve.P256, KeyRequest(DERIVE)))
        keys += [session.generate_aes_key(size, KeyRequest(CRYPT)) for size in (AesKeySize.Aes128, AesKeySize.Aes256)]
        derive = session.generate_ecc_key(EccCurve.P256, KeyRequest(DERIVE))
        assert derive.public_key_der is not None
        secret = session.ecdh(derive, derive.public_key_der, KeyType.Secret256, KeyRequest(DERIVE))
        for key_type in (KeyType.HmacSha256, KeyType.HmacSha384, KeyType.HmacSha512):
            keys.append(session.hkdf(secret, HashAlgorithm.Sha256, key_type, KeyRequest(SIGN)))
        keys.append(session.hkdf(secret, HashAlgorithm.Sha256, KeyType.HmacSha256, KeyRequest(DERIVE)))
        masked = [key.masked_key for key in (*keys, secret)]
        assert all(masked)
        return Material(masked_bk3, bmk, session.unwrapping_key().masked_key, [bytes(blob) for blob in masked if blob])


class Twin(RawDevice):
    """One of the two, with sessions and keys."""

    def __init__(self, arguments: Sequence[str], material: Material) -> None:
        super().__init__(arguments)
        self.material = material
        self.bring_up()

    def bring_up(self) -> None:
        """Provision, open two sessions and a third that is closed again, bring the keys in, delete the last."""
        material = self.material
        self.client.establish_credential(
            CREDENTIAL,
            material.masked_bk3,
            _anchor(),
            bmk=material.bmk,
            masked_unwrapping_key=material.masked_unwrapping_key,
        )
        self.sessions: list[Session] = [self.client.open_session(CREDENTIAL, seed=SEED) for _ in range(3)]
        own, other, closed = self.sessions
        closed.close()
        made: list[tuple[Key, DdiOp | None]] = [
            (own.unmask(blob), op) for blob, op in zip(material.masked, MASKED, strict=True)
        ]
        for usage in (SIGN, CRYPT):
            for kind in (KeyClass.Rsa, KeyClass.RsaCrt):
                made.append((own.import_key(material.rsa_der, kind, KeyRequest(usage)), DdiOp.RsaModExp))
        for session in (own, other):
            for payload, kind, usage, op in (
                (material.ec_der, KeyClass.Ecc, SIGN, DdiOp.EccSign),
                (material.aes, KeyClass.Aes, CRYPT, DdiOp.AesEncryptDecrypt),
            ):
                made.append((session.import_key(payload, kind, KeyRequest(usage, session=True)), op))
        gone = own.unmask(material.masked[0])
        own.delete_key(gone)
        made.append((gone, None))
        self.subjects = [Subject(key.key_id, op, _ec_public(key)) for key, op in made]

    def taken(self) -> int:
        """Commands that the express lane has carried out."""
        with ControlClient(self.device.socket_path) as control:
            return int(control.status()["counters"]["hsm_express"])


@contextlib.contextmanager
def twins(folder: Path, options: Sequence[str]) -> Iterator[tuple[Twin, Twin]]:
    """With the express lane, and without."""
    first = folder / "first"
    material = first_life(first, options)
    with contextlib.ExitStack() as opened:
        pair = []
        for express in ("on", "off"):
            state = shutil.copytree(first, folder / express)
            arguments = [*options, "--state", str(state), "--express", express]
            pair.append(opened.enter_context(Twin(arguments, material)))
        yield pair[0], pair[1]


def is_signature(key: ec.EllipticCurvePublicKey, digest: bytes, signature: bytes) -> bool:
    """Whether r ‖ s, big-endian, signs a digest that is not longer than a hash of the curve's size."""
    algorithm = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size]
    try:
        number = digest.rjust(algorithm.digest_size, b"\0")
        key.verify(der_signature(signature), number, ec.ECDSA(Prehashed(algorithm)))
    except InvalidSignature:
        return False
    return True
