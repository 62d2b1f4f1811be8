# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the dispatcher does when an operation fails in ways that no message can provoke."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import (
    AesGenerateKeyReq,
    AesGenerateKeyResp,
    AesKeySize,
    DdiOp,
    DdiStatus,
    DeleteKeyReq,
    DerPublicKey,
    GetCertificateReq,
    GetCertificateResp,
    GetUnwrappingKeyReq,
    KeyType,
    KeyUsage,
    UnmaskKeyReq,
    UnmaskKeyResp,
    encode_request,
)
from ihsm_abi.hsm_queue import ControlKind, HsmStatus
from ihsm_abi.mbor import MborMap
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.errors import CancelledError
from ihsm_device.hsm.keystore import CryptoFailureError, StaleHandleError
from ihsm_device.hsm.operations import HANDLERS, Context, Handler
from support.hsm import ModuleReply, Scene

Replace = Callable[[DdiOp, Callable[[Context, MborMap], MborMap]], Handler]


@pytest.fixture
def replace_handler() -> Iterator[Replace]:
    """Put another function in an operation's place, for one test."""
    saved = dict(HANDLERS)

    def put(op: DdiOp, run: Callable[[Context, MborMap], MborMap]) -> Handler:
        HANDLERS[op] = dataclasses.replace(saved[op], run=run)
        return saved[op]

    yield put
    HANDLERS.update(saved)


@pytest.fixture
def session(scene: Scene) -> Scene:
    scene.provision()
    scene.open_session()
    return scene


def unwrapping_key(scene: Scene) -> ModuleReply:
    return scene.send(encode_request(GetUnwrappingKeyReq(), session_id=0), ControlKind.IN_SESSION, 0)


@pytest.mark.parametrize("error", [CryptoFailureError("x"), ZeroDivisionError(), MemoryError()], ids=repr)
def test_unexpected_failures_are_internal_errors(
    session: Scene, replace_handler: Replace, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(context: Context, request: MborMap) -> MborMap:
        raise error

    replace_handler(DdiOp.GetUnwrappingKey, fail)
    reply = unwrapping_key(session)
    assert reply.status == DdiStatus.InternalError
    assert (reply.completion.flags.kind, reply.completion.flags.id_valid, reply.completion.sc) == (3, 1, 0)
    assert "GetUnwrappingKey failed" in caplog.text


def test_a_response_that_cannot_be_encoded(session: Scene, replace_handler: Replace) -> None:
    replace_handler(DdiOp.GetCertificate, lambda context, request: GetCertificateResp(certificate=bytes(2049)))
    message = encode_request(GetCertificateReq(slot_id=0, cert_id=0))
    assert session.send(message, ControlKind.NONE).status == DdiStatus.DdiEncodeFailed


def test_what_was_made_is_taken_back(session: Scene, replace_handler: Replace) -> None:
    """A response that is too long or cannot be encoded leaves no key behind, nor does a failure after storing."""
    before = session.module.status()["vault"]
    keys = session.module.partition.device.store.statistics().keys
    properties = KeyRequest(KeyUsage.EncryptDecrypt).properties
    message = encode_request(
        AesGenerateKeyReq(key_size=AesKeySize.AesGcmBulk256, key_properties=properties), session_id=0
    )
    real: Handler = HANDLERS[DdiOp.AesGenerateKey]

    def unencodable(context: Context, request: MborMap) -> MborMap:
        response = real.run(context, request)
        assert isinstance(response, AesGenerateKeyResp)
        return dataclasses.replace(response, masked_key=bytes(4000))

    def failing(context: Context, request: MborMap) -> MborMap:
        real.run(context, request)
        raise CryptoFailureError("after the key was stored")

    for run, status in ((unencodable, DdiStatus.DdiEncodeFailed), (failing, DdiStatus.InternalError)):
        replace_handler(DdiOp.AesGenerateKey, run)
        assert session.send(message, ControlKind.IN_SESSION, 0).status == status
        assert session.module.status()["vault"] == before
        assert session.module.partition.device.store.statistics().keys <= keys + 1, "but for a refilled stock"


def test_a_response_beyond_the_buffer(session: Scene, replace_handler: Replace) -> None:
    public = DerPublicKey(der=bytes(768), key_kind=KeyType.Rsa4kPublic)
    response = UnmaskKeyResp(key_id=1, pub_key=public, kind=KeyType.Rsa4kPrivate, masked_key=bytes(3072))
    replace_handler(DdiOp.UnmaskKey, lambda context, request: response)
    message = encode_request(UnmaskKeyReq(masked_key=b""), session_id=0)
    assert session.send(message, ControlKind.IN_SESSION, 0).status == DdiStatus.DmaBufferAllocFailure


def test_a_key_deleted_meanwhile(session: Scene, replace_handler: Replace) -> None:
    def stale(context: Context, request: MborMap) -> MborMap:
        raise StaleHandleError("gone")

    replace_handler(DdiOp.GetUnwrappingKey, stale)
    assert unwrapping_key(session).status == DdiStatus.KeyNotFound

    def reset_meanwhile(context: Context, request: MborMap) -> MborMap:
        session.module.nssr()
        raise StaleHandleError("gone")

    replace_handler(DdiOp.GetUnwrappingKey, reset_meanwhile)
    completion = unwrapping_key(session).completion
    assert (completion.message, completion.sc, completion.flags) == (b"", HsmStatus.INTERNAL_ERROR, 3)


def test_an_overtaken_command_completes_without_a_message(session: Scene, replace_handler: Replace) -> None:
    def overtaken(context: Context, request: MborMap) -> MborMap:
        raise CancelledError

    replace_handler(DdiOp.GetUnwrappingKey, overtaken)
    completion = unwrapping_key(session).completion
    assert (completion.message, completion.sc, completion.flags.id_valid) == (b"", HsmStatus.INTERNAL_ERROR, 0)


def test_a_session_that_is_closed_under_a_command_takes_its_key_with_it(
    session: Scene, replace_handler: Replace
) -> None:
    """The key is not there any more, and yet the answer is not KeyNotFound: the session that asked is over."""
    client = session.open_session()
    key = client.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt, session=True))
    partition = session.module.partition

    def close_first(context: Context, request: MborMap) -> MborMap:
        with partition.lock:
            partition.close_session(context.session)
        return real.run(context, request)

    real = replace_handler(DdiOp.DeleteKey, close_first)
    message = encode_request(DeleteKeyReq(key_id=key.key_id), session_id=client.session_id)
    completion = session.send(message, ControlKind.IN_SESSION, client.session_id).completion
    assert (completion.message, completion.sc, completion.flags) == (b"", HsmStatus.INTERNAL_ERROR, 3)


def test_a_key_that_is_deleted_under_a_command_of_a_live_session_is_not_found(
    session: Scene, replace_handler: Replace
) -> None:
    client = session.open_session()
    key = client.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))

    def delete_first(context: Context, request: MborMap) -> MborMap:
        real.run(context, request)
        return real.run(context, request)

    real = replace_handler(DdiOp.DeleteKey, delete_first)
    message = encode_request(DeleteKeyReq(key_id=key.key_id), session_id=client.session_id)
    assert session.send(message, ControlKind.IN_SESSION, client.session_id).status == DdiStatus.KeyNotFound


def test_lanes(scene: Scene) -> None:
    module = scene.module
    assert module.lane(encode_request(DeleteKeyReq(key_id=1), session_id=0)) is Lane.FAST
    assert module.lane(b"") is Lane.FAST
    assert module.lane(b"\xa2garbage") is Lane.FAST
    slow = {op for op, handler in HANDLERS.items() if handler.lane is Lane.SLOW}
    assert {DdiOp.EstablishCredential, DdiOp.RsaModExp, DdiOp.RsaUnwrap} <= slow
    assert DdiOp.EccSign not in slow
