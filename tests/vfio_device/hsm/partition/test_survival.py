# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What survives which reset (spec 04 §12, README §3; 01 §14.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import AesKeySize, EccCurve, KeyUsage
from ihsm_device.hsm.keystore import Scope
from support.hsm import Scene, Stage


@dataclass(frozen=True)
class Survivors:
    """Whether each item is still there after a reset."""

    identity: bool
    bk_boot: bool
    sealed_bk3: bool
    unwrapping_key: bool
    sessions: dict[str, str]


AS_FLAGGED = Survivors(True, True, True, True, {"0": "renegotiation", "1": "renegotiation"})
RESETS = {
    "nssr": AS_FLAGGED,
    "disable": AS_FLAGGED,
    "client_lost": Survivors(True, True, True, True, {}),
    "partition_reset": Survivors(False, False, False, False, {}),
}


def kept(scene: Scene) -> dict[str, Any]:
    partition = scene.module.partition
    return {
        "identity": (partition.kept.identity.partition_id, partition.kept.identity.point, partition.kept.record.leaf),
        "bk_boot": partition.kept.bk_boot,
        "sealed_bk3": partition.kept.record.sealed_bk3,
        "unwrapping_key": partition.kept.unwrapping_key,
    }


@pytest.mark.parametrize("reset", RESETS)
def test_what_survives(stage: Stage, reset: str) -> None:
    scene = stage.fresh()
    scene.provision()
    scene.client.set_sealed_bk3(b"sealed")
    scene.open_session()
    scene.open_session().generate_aes_key(AesKeySize.Aes128, KeyRequest(KeyUsage.EncryptDecrypt))
    before, nonce = kept(scene), scene.state.nonce
    getattr(scene.module, reset)()
    after, expected = kept(scene), RESETS[reset]
    for item, value in before.items():
        assert (after[item] == value) == getattr(expected, item), item
    status = scene.module.status()
    assert status["sessions"] == expected.sessions
    assert status["state"] == ("migrated" if expected.sessions else "fresh")
    assert status["vault"]["entries"] == status["vault"]["bytes"] == 0
    assert scene.state.nonce != nonce
    assert scene.state.credential is None
    assert not scene.state.encryption_keys
    if reset == "partition_reset":
        assert scene.module.partition.kept.record.leaf is None


@pytest.mark.parametrize("reset", ["nssr", "disable", "client_lost", "partition_reset"])
def test_no_key_of_the_partition_outlives_a_reset(stage: Stage, reset: str) -> None:
    scene = stage.fresh()
    scene.provision()
    session = scene.open_session()
    for size in AesKeySize:
        session.generate_aes_key(size, KeyRequest(KeyUsage.EncryptDecrypt))
    getattr(scene.module, reset)()
    store, function = stage.device.store, scene.module.partition.index
    for scope in (Scope.PARTITION, Scope.SESSION):
        assert store.destroy_group(function=function, scope=scope) == 0, "nothing was left to destroy"
    kept_keys = {"partition_reset": 1}.get(reset, 3)
    assert store.destroy_group(function=function) == kept_keys, "identity, BK_BOOT and unwrapping key"
    assert store.statistics().published == 0


def test_a_reset_empties_a_full_partition(stage: Stage) -> None:
    """Every session with keys of its own and of the partition."""
    scene = stage.fresh(tables=3)
    scene.provision()
    sessions = [scene.open_session() for _ in range(8)]
    for session in sessions:
        for _ in range(40):
            session.generate_aes_key(AesKeySize.Aes256, KeyRequest(KeyUsage.EncryptDecrypt, session=True))
        session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    assert scene.module.status()["vault"]["entries"] > 8 * 41
    scene.module.nssr()
    assert scene.module.status()["vault"]["entries"] == 0
