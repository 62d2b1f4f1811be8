# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A partition and its sessions from coroutines: each operation has its counterpart, without a thread."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.aio import AsyncPartition, AsyncSession
from ihsm.bus import VfioUserFunction
from ihsm.ddi import Credential, KeyRequest, NotAsynchronousError, Partition, Session, SoftwareTrustAnchor, StatusError
from ihsm.ddi.pota import der_signature
from ihsm.ddi.wrapping import HASHES
from ihsm.driver import Controller, HsmReply
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ArgumentError, ArgumentTypeError, SessionClosedError
from ihsm_abi.ddi import (
    AesKeySize,
    AesOp,
    DdiStatus,
    EccCurve,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    HashAlgorithm,
    HmacReq,
    HmacResp,
    KeyClass,
    KeyType,
    KeyUsage,
)
from ihsm_abi.ddi.limits import BK3_BYTES, MAX_SESSIONS
from ihsm_abi.hsm_queue import ControlKind
from support.coroutines import run

CREDENTIAL = Credential(b"application id 1", b"personal number.")
NEW_PIN = b"another number.."
SIGN = KeyRequest(KeyUsage.SignVerify)
ENCRYPT = KeyRequest(KeyUsage.EncryptDecrypt)
DERIVE = KeyRequest(KeyUsage.Derive)

NOT_AWAITED = {"abandon", "agreement", "call_async", "perform_async", "call_many", "call_many_async"}
"""What waits for nothing, is for coroutines already, or is below the operations."""


def methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: member for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


@pytest.mark.parametrize(("kind", "view"), [(Session, AsyncSession), (Partition, AsyncPartition)])
def test_every_operation_can_be_awaited(kind: type, view: type) -> None:
    waiting, awaited = methods(kind), methods(view)
    assert waiting.keys() - NOT_AWAITED == awaited.keys()
    for name, method in awaited.items():
        assert inspect.iscoroutinefunction(method), name
        assert inspect.signature(method).parameters == inspect.signature(waiting[name]).parameters, name
        assert method.__doc__, name


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice() as device:
        yield device


@pytest.fixture
def partition(device: EmbeddedDevice) -> Iterator[Partition]:
    with Controller(VfioUserFunction(device.socket_path)) as controller:
        partition = Partition(controller)
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
        partition.establish_credential(CREDENTIAL, partition.init_bk3(os.urandom(BK3_BYTES)).masked_bk3, anchor)
        yield partition
        controller.reset(subsystem=True)


def test_results_are_those_of_waiting_callers(partition: Partition) -> None:
    session = partition.open_session(CREDENTIAL)

    async def main() -> None:
        async with AsyncSession(session) as awaited:
            key = await awaited.generate_ecc_key(EccCurve.P256, SIGN)
            digests = [os.urandom(32) for _ in range(50)]
            signatures = await asyncio.gather(
                *(awaited.ecc_sign(key, digest, HashAlgorithm.Sha256) for digest in digests),
                *(awaited.ecc_sign_number(key, digest, HashAlgorithm.Sha256) for digest in digests),
            )
            assert isinstance(key.public_key, ec.EllipticCurvePublicKey)
            for digest, signature in zip(digests * 2, signatures, strict=True):
                scheme = ec.ECDSA(Prehashed(HASHES[HashAlgorithm.Sha256]()))
                key.public_key.verify(der_signature(signature), digest, scheme)
            assert (await awaited.unmask(key.masked_key)).public_key_der == key.public_key_der
            assert await awaited.attest(key, b"nonce")

            aes = await awaited.import_key(bytes(range(32)), KeyClass.Aes, ENCRYPT)
            assert (await awaited.generate_aes_key(AesKeySize.Aes128, ENCRYPT)).key_type is KeyType.Aes128
            sealed, _ = await awaited.aes_cbc(aes, AesOp.Encrypt, bytes(3000 // 16 * 16), bytes(16))
            assert sealed == session.aes_cbc(aes, AesOp.Encrypt, bytes(3000 // 16 * 16), bytes(16))[0]
            rows, _ = await awaited.aes_cbc_many(
                aes, AesOp.Encrypt, np.zeros((90, 16), np.uint8), np.zeros((90, 16), np.uint8)
            )
            assert {row.tobytes() for row in rows} == {sealed[:16]}

            other = await awaited.generate_ecc_key(EccCurve.P256, DERIVE)
            assert isinstance(other.public_key, ec.EllipticCurvePublicKey)
            spki = other.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            secret = await awaited.ecdh(other, spki, KeyType.Secret256, DERIVE)
            macs = [
                await awaited.hkdf(secret, HashAlgorithm.Sha256, KeyType.HmacSha256, SIGN, info=b"info"),
                await awaited.kbkdf(secret, HashAlgorithm.Sha256, KeyType.HmacSha256, SIGN, label=b"label"),
            ]
            for mac in macs:
                tag = await awaited.hmac(mac, b"message")
                assert tag == session.hmac(mac, b"message")
                assert (await awaited.call(HmacReq(key_id=mac.key_id, msg=b"message"), HmacResp)).tag == tag
                await awaited.delete_key(mac)
            with pytest.raises(StatusError) as refused:
                await awaited.hmac(macs[0], b"message")
            assert refused.value.status == DdiStatus.KeyNotFound

            unwrapping = await awaited.unwrapping_key(wait_s=60)
            assert unwrapping.public_key_der == session.unwrapping_key().public_key_der
            await awaited.change_pin(NEW_PIN)
        assert session.closed
        with pytest.raises(SessionClosedError):
            await awaited.ecc_sign(key, digests[0], HashAlgorithm.Sha256)

    run(main())
    partition.open_session(Credential(CREDENTIAL.id, NEW_PIN)).close()


def test_wrong_arguments_are_told_when_awaited(partition: Partition) -> None:
    session = partition.open_session(CREDENTIAL)

    async def main() -> None:
        awaited = AsyncSession(session)
        key = await awaited.generate_ecc_key(EccCurve.P256, SIGN)
        wrong: list[tuple[Awaitable[object], type[Exception]]] = [
            (awaited.ecc_sign(key, b"short", HashAlgorithm.Sha256), ArgumentError),
            (awaited.ecc_sign("key", bytes(32), HashAlgorithm.Sha256), ArgumentTypeError),  # type: ignore[arg-type]
            (awaited.ecc_sign_many(key, np.zeros((2, 5), np.uint8)), ArgumentError),
            (awaited.perform(7), ArgumentTypeError),  # type: ignore[arg-type]
        ]
        for awaitable, error in wrong:
            with pytest.raises(error):
                await awaitable

    run(main())
    with pytest.raises(ArgumentTypeError, match="AsyncSession: session: str"):
        AsyncSession("session")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="AsyncPartition: partition: Session"):
        AsyncPartition(session)  # type: ignore[arg-type]


def test_a_transport_that_only_waits_is_refused(partition: Partition) -> None:
    class Waiting:
        def exchange(self, *arguments: Any) -> Any:
            return partition.channel._transport.exchange(*arguments)

    waiting = Partition(Waiting())
    session = waiting.open_session(CREDENTIAL)

    async def main() -> None:
        awaited = AsyncSession(session)
        with pytest.raises(NotAsynchronousError):
            await awaited.generate_ecc_key(EccCurve.P256, SIGN)
        with pytest.raises(NotAsynchronousError):
            await AsyncPartition(waiting).api_revisions()

    run(main())


def test_a_device_is_provisioned_and_used_without_a_call_that_waits(device: EmbeddedDevice) -> None:
    with Controller(VfioUserFunction(device.socket_path)) as controller:
        waiting = Partition(controller)
        anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))

        async def main() -> None:
            partition = AsyncPartition(Partition(controller))
            assert await partition.info() == waiting.info()
            assert await partition.api_revisions() == waiting.api_revisions()
            assert await partition.certificate_chain() == waiting.certificate_chain()
            assert await partition.identity_key() == waiting.identity_key()
            assert await partition.sealed_bk3() is None
            await partition.set_sealed_bk3(b"sealed")
            assert await partition.sealed_bk3() == b"sealed"
            assert not await partition.is_provisioned()
            masked = (await partition.init_bk3(os.urandom(BK3_BYTES))).masked_bk3
            bmk = await partition.establish_credential(CREDENTIAL, masked, anchor)
            assert await partition.is_provisioned()
            with pytest.raises(StatusError) as refused:
                await partition.open_session(Credential(CREDENTIAL.id, NEW_PIN))
            assert refused.value.status == DdiStatus.InvalidAppCredentials

            # Each takes a nonce of the partition's, which serves one of them: the others try again.
            sessions = await asyncio.gather(*(partition.open_session(CREDENTIAL) for _ in range(3)))
            assert len({session.link.session_id for session in sessions}) == 3
            session = sessions[0]
            key = await session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify, session=True))
            controller.reset(subsystem=True)
            await partition.establish_credential(CREDENTIAL, masked, anchor, bmk=bmk)
            assert session.link.fast_path.ended
            async with await partition.reopen_session(CREDENTIAL, session.link.ticket) as revived:
                assert revived.link.session_id == session.link.session_id
                assert (await revived.unmask(key.masked_key)).public_key_der == key.public_key_der
            request = GetSessionEncryptionKeyReq()
            answer = await partition.call(request, GetSessionEncryptionKeyResp)
            assert answer.pub_key == waiting.call(request, GetSessionEncryptionKeyResp).pub_key

        run(main())
        controller.reset(subsystem=True)


class Holding:
    """A transport that keeps back the answer to OpenSession, as a slow device would."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.opened = asyncio.Event()
        self.answered = asyncio.Event()
        self.closed = asyncio.Event()

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        return self.controller.exchange(message, kind, session_id)

    async def exchange_async(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        reply = await self.controller.exchange_async(message, kind, session_id)
        if kind is ControlKind.OPEN:
            self.opened.set()
            await self.answered.wait()
        if kind is ControlKind.CLOSE:
            self.closed.set()
        return reply


def test_a_session_that_nobody_waits_for_any_more_is_closed(partition: Partition) -> None:
    transport = Holding(partition.channel._transport)  # type: ignore[arg-type]
    awaited = AsyncPartition(Partition(transport))

    async def main() -> None:
        opening = asyncio.ensure_future(awaited.open_session(CREDENTIAL))
        await transport.opened.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not transport.closed.is_set()
        transport.answered.set()
        await transport.closed.wait()

    run(main())
    sessions = [partition.open_session(CREDENTIAL) for _ in range(MAX_SESSIONS)]
    for session in sessions:
        session.close()
