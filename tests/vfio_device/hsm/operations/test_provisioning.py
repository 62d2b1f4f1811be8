# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Provisioning: backup keys, roll-back, what a BMK and a masked unwrapping key restore (spec 04 §9.4–§9.6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import (
    AesKeySize,
    DdiOp,
    DdiStatus,
    GetEstablishCredEncryptionKeyReq,
    GetEstablishCredEncryptionKeyResp,
    GetSealedBk3Req,
    GetSealedBk3Resp,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    KeyUsage,
    SetSealedBk3Req,
    SetSealedBk3Resp,
)
from ihsm_abi.ddi.limits import SEALED_BK3_MAX_BYTES
from ihsm_abi.hsm_queue import ControlKind
from support.faults import Subject, make
from support.hsm import BK3, CREDENTIAL, Scene, Stage, refused
from support.lifecycle_subjects import ESTABLISH_CREDENTIAL, flipped, with_svn


def establish(scene: Scene, **inputs: bytes) -> DdiStatus:
    """One EstablishCredential with some inputs replaced."""
    draft = make(ESTABLISH_CREDENTIAL, scene, None, [lambda draft: draft.inputs.update(inputs)])
    return scene.send(draft.encode(), ControlKind.NONE).status


def k_est(scene: Scene) -> GetEstablishCredEncryptionKeyResp:
    return scene.client.channel.call(GetEstablishCredEncryptionKeyReq(), GetEstablishCredEncryptionKeyResp)


def k_sess(scene: Scene) -> GetSessionEncryptionKeyResp:
    return scene.client.channel.call(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)


FAILURES: dict[str, Callable[[bytes], dict[str, bytes]]] = {
    "masked-bk3-empty": lambda blob: {"masked_bk3": b""},
    "masked-bk3-structure": lambda blob: {"masked_bk3": bytes(100)},
    "masked-bk3-svn-unknown": lambda blob: {"masked_bk3": with_svn(blob, 7)},
    "masked-bk3-structure without svn": lambda blob: {"masked_bk3": with_svn(blob, None)},
    "masked-bk3-mac": lambda blob: {"masked_bk3": flipped(blob)},
    "bmk-structure": lambda blob: {"bmk": bytes(48)},
    "bmk-structure without svn": lambda blob: {"bmk": with_svn(blob, None)},
    "bmk-svn-unknown": lambda blob: {"bmk": with_svn(blob, 2)},
    "bmk-mac": lambda blob: {"bmk": blob},
    "muk-decode": lambda blob: {"masked_unwrapping_key": blob},
}


@pytest.mark.parametrize("what", FAILURES)
def test_failed_provisioning_is_rolled_back(scene: Scene, what: str) -> None:
    blob = scene.client.init_bk3(BK3).masked_bk3
    before = k_est(scene)
    assert establish(scene, **FAILURES[what](blob)) != DdiStatus.Success
    assert refused(lambda: k_sess(scene)) == DdiStatus.CredentialsNotEstablished
    after = k_est(scene)
    assert after.pub_key != before.pub_key
    assert after.nonce != before.nonce
    assert scene.module.status()["vault"]["entries"] == 1, "only the new K_est is left"
    scene.provision()
    scene.open_session()


def test_a_partition_without_bk_boot(stage: Stage, covers: Callable[..., None]) -> None:
    foreign = stage.fresh().client.init_bk3(BK3).masked_bk3
    scene = stage.fresh()
    scene.client.identity_key()
    for blob, status in (
        (with_svn(foreign, 7), DdiStatus.UnmaskingBk3Failed),
        (foreign, DdiStatus.MaskedBkBootNotPresent),
        (flipped(foreign), DdiStatus.MaskedBkBootNotPresent),
    ):
        draft = make(_without_init_bk3(blob), scene, None)
        assert scene.send(draft.encode(), ControlKind.NONE).status == status
    covers("EstablishCredential/bk-boot-missing")
    scene.client.init_bk3(BK3)
    draft = make(_without_init_bk3(foreign), scene, None)
    assert scene.send(draft.encode(), ControlKind.NONE).status == DdiStatus.MaskedKeyDecodeFailed


def _without_init_bk3(blob: bytes) -> Subject:
    """EstablishCredential with this masked BK3, on a partition that has not masked one itself."""
    inputs = {
        "id": CREDENTIAL.id,
        "pin": CREDENTIAL.pin,
        "masked_bk3": blob,
        "bmk": b"",
        "masked_unwrapping_key": b"",
    }
    return dataclasses.replace(ESTABLISH_CREDENTIAL, inputs=lambda scene: dict(inputs))


def test_a_clients_key_is_no_unwrapping_key(scene: Scene, covers: Callable[..., None]) -> None:
    scene.provision()
    session = scene.open_session()
    key = session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt))
    scene.module.nssr()
    assert establish(scene, bmk=scene.bmk, masked_unwrapping_key=key.masked_key) == DdiStatus.AppNotFound
    covers("EstablishCredential/muk-not-an-unwrapping-key")
    damaged = flipped(key.masked_key)
    assert establish(scene, bmk=scene.bmk, masked_unwrapping_key=damaged) == DdiStatus.MaskedKeyDecodeFailed


def test_bk_boot_is_made_once(scene: Scene) -> None:
    first = scene.client.init_bk3(BK3).masked_bk3
    second = scene.client.init_bk3(BK3).masked_bk3
    assert first != second, "another IV"
    assert establish(scene, masked_bk3=first) == DdiStatus.Success
    scene.module.nssr()
    assert establish(scene, masked_bk3=second) == DdiStatus.Success


def test_bmk_is_echoed_and_restores_the_masking_key(scene: Scene) -> None:
    bmk = scene.provision()
    session = scene.open_session()
    key = session.generate_aes_key(AesKeySize.Aes128, KeyRequest(KeyUsage.EncryptDecrypt))
    scene.module.nssr()
    assert scene.provision(bmk=bmk) == bmk
    reopened = scene.client.reopen_session(scene.credential, session.ticket)
    reopened.delete_key(reopened.unmask(key.masked_key))
    scene.module.nssr()
    scene.provision()
    other = scene.client.reopen_session(scene.credential, reopened.ticket)
    assert refused(lambda: other.unmask(key.masked_key)) == DdiStatus.MaskedKeyDecodeFailed


def test_unwrapping_key_is_kept_until_another_is_given(stage: Stage) -> None:
    scene = stage.fresh()
    bmk = scene.provision()
    first = scene.unwrapping_key(scene.open_session())
    scene.module.nssr()
    scene.provision(bmk=bmk)
    second = scene.unwrapping_key(scene.open_session())
    assert second.pub_key == first.pub_key
    assert second.masked_key != first.masked_key, "another IV"
    scene.module.partition_reset()
    scene.client.identity_key()
    new_bmk = scene.provision()
    third = scene.unwrapping_key(scene.open_session())
    assert third.pub_key != first.pub_key
    scene.module.nssr()
    scene.provision(bmk=new_bmk, masked_unwrapping_key=third.masked_key)
    assert scene.unwrapping_key(scene.open_session()).pub_key == third.pub_key
    assert scene.module.partition.device.store.statistics().keys_dying == 0


def test_sealed_bk3(stage: Stage, covers: Callable[..., None]) -> None:
    scene = stage.fresh()

    def put(blob: bytes) -> None:
        scene.client.channel.call(SetSealedBk3Req(sealed_bk3=blob), SetSealedBk3Resp)

    def get() -> bytes:
        return scene.client.channel.call(GetSealedBk3Req(), GetSealedBk3Resp).sealed_bk3

    assert refused(get) == DdiStatus.SealedBk3NotPresent
    covers("GetSealedBk3/not-set")
    assert refused(lambda: put(bytes(SEALED_BK3_MAX_BYTES + 1))) == DdiStatus.SealedBk3TooLarge
    assert refused(lambda: put(bytes(1024))) == DdiStatus.SealedBk3TooLarge
    covers("SetSealedBk3/too-large")
    put(b"")
    put(b"")
    assert refused(get) == DdiStatus.SealedBk3NotPresent
    covers("GetSealedBk3/zero-length")
    blob = bytes(range(256)) * 2
    put(blob)
    assert get() == blob
    for late in (b"", b"x", bytes(SEALED_BK3_MAX_BYTES + 1)):
        assert refused(partial(put, late)) == DdiStatus.SealedBk3AlreadySet
    undecodable = b"\xa2\x18\x00\xa2\x18\x01\xa2\x18\x01\x1a\x00\x00\x00\x01\x18\x02\x1a\x00\x00\x00\x00\x18\x02\x1a"
    undecodable += int(DdiOp.SetSealedBk3).to_bytes(4, "big")
    assert scene.send(undecodable, ControlKind.NONE).status == DdiStatus.SealedBk3AlreadySet
    covers("SetSealedBk3/already-set")
    scene.module.nssr()
    assert get() == blob
    scene.module.disable()
    assert get() == blob
    scene.module.client_lost()
    assert get() == blob
    scene.module.partition_reset()
    assert refused(get) == DdiStatus.SealedBk3NotPresent
