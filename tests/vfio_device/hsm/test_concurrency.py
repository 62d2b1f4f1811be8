# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands on several threads at once: one winner per prepared message, resets in between (spec 04 §5.4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import KeyRequest
from ihsm.ddi.partition import Partition as Client
from ihsm_abi.ddi import (
    AesKeySize,
    DdiStatus,
    GetEstablishCredEncryptionKeyReq,
    GetEstablishCredEncryptionKeyResp,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    KeyUsage,
    encode_request,
)
from ihsm_abi.hsm_queue import ControlKind
from support.faults import Subject, make
from support.hsm import BK3, Scene, Stage
from support.lifecycle_subjects import CHANGE_PIN, ESTABLISH_CREDENTIAL, OPEN_SESSION, REOPEN_SESSION
from support.waiting import HANG_S

T = TypeVar("T")
AES = KeyRequest(KeyUsage.EncryptDecrypt)


def together(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run the calls on a thread each, started at one moment."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


@pytest.mark.parametrize("provisioned", [False, True], ids=["K_est", "K_sess"])
def test_first_gets_all_return_the_same_key(scene: Scene, provisioned: bool) -> None:
    channel = scene.client.channel

    def get() -> tuple[bytes, bytes]:
        if provisioned:
            session = channel.call(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
            return session.pub_key.der, session.nonce
        establish = channel.call(GetEstablishCredEncryptionKeyReq(), GetEstablishCredEncryptionKeyResp)
        return establish.pub_key.der, establish.nonce

    if provisioned:
        scene.provision()
    entries = scene.module.status()["vault"]["entries"]
    assert len(set(together([get] * 128))) == 1
    assert scene.module.status()["vault"]["entries"] == entries + 1


def test_sixteen_threads_establish_one_succeeds(scene: Scene) -> None:
    masked = scene.client.init_bk3(BK3).masked_bk3
    scene.client.identity_key()

    def attempt() -> DdiStatus:
        client = Client(scene.transport)
        try:
            client.establish_credential(scene.credential, masked, scene.anchor)
        except StatusError as error:
            return error.status
        return DdiStatus.Success

    statuses = together([attempt] * 16)
    assert statuses.count(DdiStatus.Success) == 1
    assert set(statuses) <= {DdiStatus.Success, DdiStatus.NonceMismatch, DdiStatus.VaultAppLimitReached}
    scene.open_session()


@pytest.mark.parametrize("subject", [ESTABLISH_CREDENTIAL, OPEN_SESSION, CHANGE_PIN], ids=lambda subject: subject.name)
def test_one_prepared_message_sent_sixteen_times(scene: Scene, subject: Subject) -> None:
    draft = make(subject, scene, subject.arrange(scene))
    message = draft.encode()
    statuses = together([lambda: scene.send(message, draft.queue_kind, draft.queue_id).status] * 16)
    assert statuses.count(DdiStatus.Success) == 1
    assert set(statuses) == {DdiStatus.Success, DdiStatus.NonceMismatch}


def test_one_prepared_reopen_sent_sixteen_times(scene: Scene) -> None:
    draft = make(REOPEN_SESSION, scene, REOPEN_SESSION.arrange(scene))
    message = draft.encode()
    statuses = together([lambda: scene.send(message, draft.queue_kind, draft.queue_id).status] * 16)
    assert statuses.count(DdiStatus.Success) == 1
    assert scene.module.status()["sessions"] == {"0": "live"}


def test_twelve_threads_race_for_eight_sessions(scene: Scene) -> None:
    """At most twelve attempts each are enough, because every lost race is another thread's success (spec 04 §5.4)."""
    scene.provision()

    def attempt() -> DdiStatus:
        try:
            Client(scene.transport).open_session(scene.credential)
        except StatusError as error:
            return error.status
        return DdiStatus.Success

    statuses = together([attempt] * 12)
    assert statuses.count(DdiStatus.Success) == 8
    assert statuses.count(DdiStatus.VaultSessionLimitReached) == 4


def test_resets_between_commands_leave_nothing_behind(stage: Stage) -> None:
    """Whatever a command was doing when a reset came: nothing of it is in the new state, and no key is left over."""
    scene = stage.fresh()
    scene.provision()
    stop = threading.Event()
    seen: set[object] = set()

    def work() -> None:
        client = Client(scene.transport)
        client.info()
        while not stop.is_set():
            try:
                session = client.open_session(scene.credential)
                session.generate_aes_key(AesKeySize.AesGcmBulk256, AES)
                session.close()
            except StatusError as error:
                seen.add(error.status)
            except Exception as error:
                seen.add(type(error).__name__)

    with ThreadPoolExecutor(3) as pool:
        workers = [pool.submit(work) for _ in range(3)]
        for _ in range(25):
            scene.module.client_lost()
            scene.provision()
        stop.set()
        for worker in workers:
            worker.result(HANG_S)
    assert DdiStatus.InternalError not in seen
    scene.module.client_lost()
    store = stage.device.store
    assert store.destroy_group(function=scene.module.partition.index) == 3, "identity, BK_BOOT, unwrapping key"
    assert store.statistics().published == 0


def test_a_session_that_ends_takes_its_commands_with_it(scene: Scene) -> None:
    """A command that is at work when its session closes leaves no key and completes without a message."""
    scene.provision()
    session = scene.open_session()
    partition = scene.module.partition
    store = partition.device.store
    original = store.generate_secret

    def close_first(*arguments: object) -> object:
        with partition.lock:
            live = partition.sessions.live(session.session_id)
            assert live is not None
            partition.close_session(live)
        return original(*arguments)  # type: ignore[arg-type]

    store.generate_secret = close_first  # type: ignore[assignment, method-assign]
    try:
        with pytest.raises(Exception, match="response"):
            session.generate_aes_key(AesKeySize.Aes256, AES)
    finally:
        del store.generate_secret
    assert scene.module.status()["sessions"] == {}
    keys = scene.module.status()["vault"]["entries"]
    assert keys == 3, "masking key, unwrapping key, K_sess"


def test_a_bad_message_does_not_disturb_others(scene: Scene) -> None:
    scene.provision()
    session = scene.open_session()
    good = encode_request(GetSessionEncryptionKeyReq())

    def garbage() -> DdiStatus:
        return scene.send(b"\xa2garbage", ControlKind.NONE).status

    def right() -> DdiStatus:
        return scene.send(good, ControlKind.NONE).status

    statuses = together([garbage, right] * 8)
    assert statuses == [DdiStatus.DdiDecodeFailed, DdiStatus.Success] * 8
    session.close()
