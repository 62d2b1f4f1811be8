# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Sessions: ids, limits, what ends with them, what resets leave of them (spec 04 §9.8–§9.11, §10, §12)."""

from __future__ import annotations

from functools import partial

import pytest

from ihsm.ddi.credentials import Credential
from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import AesKeySize, ApiRev, DdiStatus, KeyUsage
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from ihsm_device.hsm.keystore import Scope
from ihsm_device.hsm.partition.pin_policy import ATTEMPTS_PER_STEP, PinPolicy
from support.faults import make
from support.hsm import CREDENTIAL, Scene, Stage, refused
from support.lifecycle_subjects import OPEN_SESSION, OTHER_PIN

AES = KeyRequest(KeyUsage.EncryptDecrypt)
SESSION_AES = KeyRequest(KeyUsage.EncryptDecrypt, session=True)


def flush(scene: Scene, session_id: int) -> HsmCompletion:
    return scene.module.flush(HsmCommand(b"", ControlKind.CLOSE, True, session_id))


@pytest.fixture
def ready(scene: Scene) -> Scene:
    scene.provision()
    return scene


def test_lowest_free_id_is_used_again(ready: Scene) -> None:
    sessions = [ready.open_session() for _ in range(8)]
    assert [session.session_id for session in sessions] == list(range(8))
    assert refused(ready.open_session) == DdiStatus.VaultSessionLimitReached
    sessions[5].close()
    sessions[2].close()
    assert ready.open_session().session_id == 2
    assert ready.open_session().session_id == 5


def test_closing_ends_session_keys_and_keeps_application_keys(ready: Scene) -> None:
    before = ready.module.status()["vault"]
    owner, other = ready.open_session(), ready.open_session()
    session_key = owner.generate_aes_key(AesKeySize.Aes256, SESSION_AES)
    key = owner.generate_aes_key(AesKeySize.Aes256, AES)
    bulk = owner.generate_aes_key(AesKeySize.AesGcmBulk256, SESSION_AES)
    assert refused(lambda: other.delete_key(session_key)) == DdiStatus.InvalidPermissions
    owner.close()
    for gone in (session_key, bulk):
        assert refused(partial(other.delete_key, gone)) == DdiStatus.KeyNotFound
    other.delete_key(key)
    other.close()
    after = ready.module.status()["vault"]
    assert after["bulk_keys"] == 0
    # K_sess was made by the first OpenSession and stays.
    assert (after["entries"], after["bytes"]) == (before["entries"] + 1, before["bytes"] + 144 + 32)


def test_closing_leaves_no_key_of_the_session(ready: Scene) -> None:
    """Neither its masking key nor its session-only keys; those of another session stay."""
    owner, other = ready.open_session(), ready.open_session()
    for session in (owner, other):
        session.generate_aes_key(AesKeySize.Aes256, SESSION_AES)
    owner.close()
    partition = ready.module.partition
    store, index = partition.device.store, partition.index
    assert store.destroy_group(function=index, scope=Scope.SESSION, session=owner.session_id) == 0
    assert store.destroy_group(function=index, scope=Scope.SESSION, session=other.session_id) == 2


def test_flush_of_a_live_session(ready: Scene) -> None:
    session = ready.open_session()
    key = session.generate_aes_key(AesKeySize.Aes128, SESSION_AES)
    completion = flush(ready, session.session_id)
    assert (completion.message, completion.flags, completion.session_id, completion.sc) == (b"", 0x16, 0, 0)
    assert ready.module.status()["sessions"] == {}
    other = ready.open_session()
    assert other.session_id == session.session_id
    assert refused(lambda: other.delete_key(key)) == DdiStatus.KeyNotFound


@pytest.mark.parametrize("session_id", [0, 3, 8, 0xFFFF])
def test_flush_of_any_other_id_completes_and_frees_it(ready: Scene, session_id: int) -> None:
    ready.open_session()
    ready.module.nssr()
    completion = flush(ready, session_id)
    assert (completion.message, completion.flags, completion.session_id, completion.sc) == (b"", 0, session_id, 0)
    assert ready.module.status()["sessions"] == ({} if session_id == 0 else {"0": "renegotiation"})


def test_flagged_ids_count_against_the_limit(ready: Scene) -> None:
    for _ in range(8):
        ready.open_session()
    ready.module.nssr()
    ready.provision(bmk=ready.bmk)
    entries = ready.module.status()["vault"]["entries"]
    assert refused(ready.open_session) == DdiStatus.VaultSessionLimitReached
    assert ready.module.status()["vault"]["entries"] == entries + 1, "K_sess, but no session object"
    flush(ready, 4)
    assert ready.open_session().session_id == 4


def test_a_flagged_id_closes_without_a_revision(ready: Scene) -> None:
    session = ready.open_session()
    ready.module.nssr()
    session.close()
    assert ready.module.status()["sessions"] == {}


def test_reopening_takes_the_revision_of_its_header(ready: Scene) -> None:
    session = ready.open_session()
    ready.module.nssr()
    ready.provision(bmk=ready.bmk)
    ready.client.channel.rev = ApiRev(major=99, minor=99)
    try:
        assert refused(lambda: ready.client.session_cipher()) == DdiStatus.UnsupportedRevision
    finally:
        ready.client.channel.rev = ApiRev(major=1, minor=0)
    again = ready.client.reopen_session(ready.credential, session.ticket)
    assert (again.session_id, again.short_app_id) == (session.session_id, 0)
    assert again.ticket.bmk_session != session.ticket.bmk_session, "masked anew"


def test_five_resets_with_reopening(ready: Scene) -> None:
    session = ready.open_session()
    key = session.generate_aes_key(AesKeySize.Aes256, SESSION_AES)
    for _ in range(5):
        ready.module.nssr()
        assert refused(partial(session.delete_key, key)) == DdiStatus.SessionNeedsRenegotiation
        ready.provision(bmk=ready.bmk)
        session = ready.client.reopen_session(ready.credential, session.ticket)
        key = session.unmask(key.masked_key)


def test_change_pin(ready: Scene) -> None:
    session = ready.open_session()
    session.change_pin(CREDENTIAL.pin)
    ready.open_session().close()
    session.change_pin(OTHER_PIN)
    assert refused(ready.open_session) == DdiStatus.InvalidAppCredentials
    ready.credential = Credential(CREDENTIAL.id, OTHER_PIN)
    ready.open_session().close()
    ready.module.nssr()
    ready.credential = CREDENTIAL
    ready.provision()
    ready.open_session()


def test_open_session_response_and_completion(ready: Scene) -> None:
    draft = make(OPEN_SESSION, ready, None)
    reply = ready.send(draft.encode(), ControlKind.OPEN)
    assert reply.completion.flags == 0x0D
    assert (reply.completion.session_id, reply.completion.short_app_id) == (0, 0)
    assert reply.header.sess_id == 0
    assert reply.completion.rollback is not None
    reply.completion.rollback()
    assert ready.module.status()["sessions"] == {}


# -- lock-out ----------------------------------------------------------------------------------------------------------


def test_a_thousand_wrong_pins(stage: Stage) -> None:
    """The 1000th wrong PIN starts a delay of a minute, in which not even the right one is looked at."""
    scene = stage.clean()
    scene.provision()
    clock = [1000.0]
    scene.state.pin_policy.now = lambda: clock[0]
    wrong = Credential(CREDENTIAL.id, OTHER_PIN)
    for _ in range(ATTEMPTS_PER_STEP):
        assert refused(lambda: scene.client.open_session(wrong)) == DdiStatus.InvalidAppCredentials
    assert refused(scene.open_session) == DdiStatus.LoginFailed
    assert refused(lambda: scene.client.open_session(wrong)) == DdiStatus.LoginFailed
    clock[0] += 59.9
    assert refused(scene.open_session) == DdiStatus.LoginFailed
    clock[0] += 0.2
    session = scene.open_session()
    for _ in range(3):
        assert refused(lambda: scene.client.open_session(wrong)) == DdiStatus.InvalidAppCredentials
    session.close()


def test_a_delay_that_starts_during_a_login_refuses_it(ready: Scene) -> None:
    """The policy is asked again once the credential is decrypted, before it is judged (spec 04 §5.5, §9.8)."""
    policy, store = ready.state.pin_policy, ready.module.partition.device.store
    decrypt = store.credential_decrypt

    def delay_first(*arguments: object) -> object:
        policy.locked_until = float("inf")
        return decrypt(*arguments)  # type: ignore[arg-type]

    store.credential_decrypt = delay_first  # type: ignore[assignment, method-assign]
    try:
        nonce = ready.state.nonce
        assert refused(ready.open_session) == DdiStatus.LoginFailed
        assert refused(lambda: ready.client.open_session(Credential(CREDENTIAL.id, OTHER_PIN))) == DdiStatus.LoginFailed
    finally:
        del store.credential_decrypt
    assert ready.state.nonce != nonce, "the credential was accepted before the policy was asked again"
    assert policy.attempts == 0
    assert ready.module.status()["sessions"] == {}


def test_delays_grow_to_32_minutes_and_start_over() -> None:
    clock = [0.0]
    policy = PinPolicy(lambda: clock[0])
    for step in range(1, 33):
        for _ in range(ATTEMPTS_PER_STEP):
            policy.failed()
        assert (policy.delay_factor, policy.locked_until) == (step, step * 60.0)
    for _ in range(ATTEMPTS_PER_STEP):
        policy.failed()
    assert (policy.delay_factor, policy.attempts, policy.locked_until) == (0, 0, 0.0)
    policy.check()


@pytest.mark.parametrize("reset", ["nssr", "disable", "client_lost", "partition_reset"])
def test_resets_end_the_lock_out(stage: Stage, reset: str) -> None:
    scene = stage.fresh() if reset == "partition_reset" else stage.clean()
    scene.state.pin_policy.locked_until = float("inf")
    getattr(scene.module, reset)()
    scene.provision()
    scene.open_session()
