# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that another command or a reset gets ahead of, at the very place where that matters (spec 04 §5.4)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import (
    AesKeySize,
    DdiStatus,
    DeleteKeyReq,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    KeyUsage,
    encode_request,
)
from ihsm_abi.hsm_queue import ControlKind, HsmStatus
from ihsm_device.hsm.command import HsmCommand
from support.faults import make
from support.hsm import BK3, Scene, Stage
from support.lifecycle_subjects import ESTABLISH_CREDENTIAL, NO_K_SESS, REOPEN_SESSION

Ahead = Callable[[Any, str, Callable[[], object]], None]


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """Have something happen once, right before a method of an object is called next."""

    def arrange(owner: Any, name: str, event: Callable[[], object]) -> None:
        method, waiting = getattr(owner, name), [event]

        def call(*arguments: Any, **named: Any) -> Any:
            if waiting:
                waiting.pop()()
            return method(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    return arrange


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """The same, right after it has returned."""

    def arrange(owner: Any, name: str, event: Callable[[], object]) -> None:
        method, waiting = getattr(owner, name), [event]

        def call(*arguments: Any, **named: Any) -> Any:
            result = method(*arguments, **named)
            if waiting:
                waiting.pop()()
            return result

        monkeypatch.setattr(owner, name, call)

    return arrange


def test_a_key_that_another_session_deletes_first(scene: Scene, after: Ahead) -> None:
    scene.provision()
    session, other = scene.open_session(), scene.open_session()
    key = session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
    before_it = scene.module.status()["vault"]["entries"] - 1
    after(scene.state.vault, "get", lambda: other.delete_key(key))
    message = encode_request(DeleteKeyReq(key_id=key.key_id), session_id=session.session_id)
    assert scene.send(message, ControlKind.IN_SESSION, session.session_id).status == DdiStatus.KeyNotFound
    assert scene.module.status()["vault"]["entries"] == before_it


def test_a_number_that_is_another_keys_meanwhile(scene: Scene, after: Ahead) -> None:
    """The key that was named has gone; the one that has its number was not meant."""
    scene.provision()
    session, other = scene.open_session(), scene.open_session()
    request = KeyRequest(KeyUsage.EncryptDecrypt)
    key = session.generate_aes_key(AesKeySize.Aes256, request)
    made = []

    def replace() -> None:
        other.delete_key(key)
        made.append(other.generate_aes_key(AesKeySize.Aes256, request))

    after(scene.state.vault, "get", replace)
    message = encode_request(DeleteKeyReq(key_id=key.key_id), session_id=session.session_id)
    assert scene.send(message, ControlKind.IN_SESSION, session.session_id).status == DdiStatus.KeyNotFound
    [successor] = made
    assert successor.key_id == key.key_id
    session.delete_key(successor)


def test_a_session_that_is_flushed_while_it_is_reopened(scene: Scene, before: Ahead) -> None:
    draft = make(REOPEN_SESSION, scene, REOPEN_SESSION.arrange(scene))
    store = scene.module.partition.device.store
    flush = HsmCommand(b"", ControlKind.CLOSE, True, 0)
    before(store, "credential_channel", lambda: scene.module.flush(flush))
    assert scene.send(draft.encode(), draft.queue_kind, draft.queue_id).status == DdiStatus.SessionNotFound
    assert scene.module.status()["sessions"] == {}
    assert scene.open_session().session_id == 0


def test_a_reset_and_another_owner_during_provisioning(stage: Stage, before: Ahead) -> None:
    """What comes late takes nothing of the new owner's back: neither its credential nor its unwrapping key."""
    scene = stage.fresh()
    draft = make(ESTABLISH_CREDENTIAL, scene, ESTABLISH_CREDENTIAL.arrange(scene))

    def another() -> None:
        scene.module.nssr()
        scene.provision()

    before(scene.module.partition.device.unwrapping_keys, "take", another)
    completion = scene.send(draft.encode(), draft.queue_kind).completion
    assert (completion.sc, completion.message) == (HsmStatus.INTERNAL_ERROR, b"")
    session = scene.open_session()
    scene.unwrapping_key(session)
    key = session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
    assert session.unmask(key.masked_key).key_id != key.key_id


def test_a_nonce_alone_is_not_enough(scene: Scene) -> None:
    """K_est is not there, though somebody knows the nonce that goes with it (spec 04 §9.4)."""
    scene.masked_bk3 = scene.client.init_bk3(BK3).masked_bk3
    draft = make(ESTABLISH_CREDENTIAL, scene, None, [NO_K_SESS])
    status = scene.send(draft.encode(), draft.queue_kind).status
    assert status == DdiStatus.EstablishCredEncryptionKeyGenerateFailed
    assert scene.state.credential is None


class _Lock:
    """A lock before which something happens when it is taken first."""

    def __init__(self, lock: threading.Lock, event: Callable[[], object]) -> None:
        self._lock = lock
        self._waiting = [event]

    def __enter__(self) -> None:
        if self._waiting:
            self._waiting.pop()()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_of_two_first_questions_for_the_chain_one_makes_the_certificate(stage: Stage) -> None:
    scene = stage.fresh()
    partition, first = scene.module.partition, []

    def ask() -> GetCertChainInfoResp:
        return scene.client.channel.call(GetCertChainInfoReq(slot_id=0), GetCertChainInfoResp)

    partition.record_lock = _Lock(partition.record_lock, lambda: first.append(ask()))  # type: ignore[assignment]
    assert ask() == first[0]
    assert scene.client.certificate_chain().thumbprint == first[0].thumbprint
