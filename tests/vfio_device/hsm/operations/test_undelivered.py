# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands whose response cannot be delivered: what is taken back, and what stays (docs/hsm.md)."""

from __future__ import annotations

from ihsm.ddi.credentials import Credential
from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import (
    AesGenerateKeyReq,
    AesGenerateKeyResp,
    AesKeySize,
    CloseSessionReq,
    DdiStatus,
    DeleteKeyReq,
    DeleteKeyResp,
    KeyUsage,
    decode_response,
    encode_request,
)
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from support.faults import Draft, Subject, make
from support.hsm import BK3, CREDENTIAL, ModuleReply, Scene, refused
from support.lifecycle_subjects import CHANGE_PIN, ESTABLISH_CREDENTIAL, OPEN_SESSION, OTHER_PIN, REOPEN_SESSION

AES = KeyRequest(KeyUsage.EncryptDecrypt)


def give_up(completion: HsmCompletion) -> None:
    """As a queue does with a response that it cannot write: what the module wants back is taken back."""
    assert ModuleReply(completion).status == DdiStatus.Success
    if completion.rollback is not None:
        completion.rollback()


def lose(scene: Scene, message: bytes, kind: ControlKind, session_id: int | None) -> None:
    """Execute a command and give up its response."""
    give_up(scene.send(message, kind, session_id).completion)


def prepared(scene: Scene, subject: Subject) -> Draft:
    return make(subject, scene, subject.arrange(scene))


def lose_draft(draft: Draft) -> None:
    lose(draft.scene, draft.encode(), draft.queue_kind, draft.queue_id)


def test_a_session_that_nobody_knows_is_closed(scene: Scene) -> None:
    draft = prepared(scene, OPEN_SESSION)
    before = scene.module.status()["vault"]
    lose_draft(draft)
    assert scene.module.status()["sessions"] == {}
    assert scene.module.status()["vault"] == before
    assert scene.open_session().session_id == 0


def test_a_key_that_nobody_knows_is_deleted(scene: Scene) -> None:
    scene.provision()
    session = scene.open_session()
    before = scene.module.status()["vault"]
    request = AesGenerateKeyReq(key_size=AesKeySize.AesGcmBulk256, key_properties=AES.properties)
    lose(scene, encode_request(request, session_id=session.session_id), ControlKind.IN_SESSION, session.session_id)
    assert scene.module.status()["vault"] == before
    assert scene.module.partition.device.store.statistics().published == 0


def test_a_session_under_the_same_number_stays(scene: Scene) -> None:
    """The queue gives up late: the session that it could not tell of has been flushed, and another has its id."""
    completion = scene.send(prepared(scene, OPEN_SESSION).encode(), ControlKind.OPEN).completion
    scene.module.flush(HsmCommand(b"", ControlKind.CLOSE, True, 0))
    successor = scene.open_session()
    assert successor.session_id == 0
    give_up(completion)
    assert scene.module.status()["sessions"] == {"0": "live"}
    successor.generate_aes_key(AesKeySize.Aes128, AES)


def test_a_key_under_the_same_number_stays(scene: Scene) -> None:
    """As above; any session of the application may delete the key that the queue could not tell of."""
    scene.provision()
    session = scene.open_session()
    request = AesGenerateKeyReq(key_size=AesKeySize.Aes256, key_properties=AES.properties)
    message = encode_request(request, session_id=session.session_id)
    reply = scene.send(message, ControlKind.IN_SESSION, session.session_id)
    _, made = decode_response(reply.message, AesGenerateKeyResp)
    assert made is not None
    session.call(DeleteKeyReq(key_id=made.key_id), DeleteKeyResp)
    successor = session.generate_aes_key(AesKeySize.Aes256, AES)
    assert successor.key_id == made.key_id
    give_up(reply.completion)
    session.delete_key(successor)


def test_a_reopened_session_stays_and_its_client_can_close_it(scene: Scene) -> None:
    draft = prepared(scene, REOPEN_SESSION)
    ticket = scene.ticket  # type: ignore[attr-defined]
    lose_draft(draft)
    assert scene.module.status()["sessions"] == {"0": "live"}
    again = refused(lambda: scene.client.reopen_session(scene.credential, ticket))
    assert again == DdiStatus.ProcessedIoEventInInvalidState
    assert scene.send(encode_request(CloseSessionReq(), session_id=0), ControlKind.CLOSE, 0).status == DdiStatus.Success
    assert scene.module.status()["sessions"] == {}


def test_the_ticket_of_a_reopened_session_serves_again_after_a_reset(scene: Scene) -> None:
    draft = prepared(scene, REOPEN_SESSION)
    ticket = scene.ticket  # type: ignore[attr-defined]
    lose_draft(draft)
    scene.module.nssr()
    scene.provision(bmk=scene.bmk)
    assert scene.client.reopen_session(scene.credential, ticket).session_id == 0


def test_a_changed_pin_stays(scene: Scene) -> None:
    draft = prepared(scene, CHANGE_PIN)
    draft.inputs["pin"] = OTHER_PIN
    draft.request = CHANGE_PIN.request(draft)
    lose_draft(draft)
    assert refused(scene.open_session) == DdiStatus.InvalidAppCredentials
    scene.credential = Credential(CREDENTIAL.id, OTHER_PIN)
    scene.open_session()


def test_an_established_credential_stays_with_its_keys(scene: Scene) -> None:
    lose_draft(prepared(scene, ESTABLISH_CREDENTIAL))
    assert scene.module.status()["state"] == "ready"
    masked_bk3 = scene.client.init_bk3(BK3).masked_bk3
    again = refused(lambda: scene.client.establish_credential(scene.credential, masked_bk3, scene.anchor))
    assert again == DdiStatus.VaultAppLimitReached
    session = scene.open_session()
    key = session.generate_aes_key(AesKeySize.Aes256, AES)
    assert session.unmask(key.masked_key).key_id != key.key_id
