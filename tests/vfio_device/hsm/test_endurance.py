# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Long runs: no growth in memory, accounting returns to zero."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import AesKeySize, AesOp, DeviceKind, KeyUsage
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.keystore import Statistics
from support.hsm import Scene, Stage

pytestmark = pytest.mark.long
SESSION_AES = KeyRequest(KeyUsage.EncryptDecrypt, session=True)
GROWTH_BYTES = 4 << 20
"""More than the interpreter's own fluctuation, less than what thousands of leaked objects would take."""


@pytest.fixture(params=[DeviceKind.Virtual, DeviceKind.Physical], ids=lambda kind: kind.name.lower())
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with HsmDevice(DeviceOptions(kind=request.param)) as device:
        yield Stage(device).fresh()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def population(scene: Scene) -> tuple[int, int, int]:
    statistics: Statistics = scene.module.partition.device.store.statistics()
    return statistics.keys, statistics.keys_dying, statistics.published


def use_session(scene: Scene) -> None:
    with scene.open_session() as session:
        key = session.generate_aes_key(AesKeySize.Aes256, SESSION_AES)
        session.generate_aes_key(AesKeySize.AesGcmBulk256, SESSION_AES)
        session.aes_cbc(key, AesOp.Encrypt, bytes(32), bytes(16))


@pytest.mark.timeout(1800)
def test_ten_thousand_sessions(scene: Scene) -> None:
    scene.provision()
    for _ in range(500):
        use_session(scene)
    vault, keys, memory = scene.module.status()["vault"], population(scene), resident_bytes()
    for _ in range(10_000):
        use_session(scene)
    assert scene.module.status()["vault"] == vault
    assert scene.module.status()["sessions"] == {}
    assert population(scene) == keys
    assert resident_bytes() - memory < GROWTH_BYTES


@pytest.mark.timeout(1800)
def test_a_thousand_migrations_with_reopening(scene: Scene) -> None:
    scene.provision()
    session = scene.open_session()
    key = session.generate_aes_key(AesKeySize.Aes256, SESSION_AES)
    ticket, masked_key, bmk = session.ticket, key.masked_key, scene.bmk

    def migrate() -> None:
        scene.module.nssr()
        scene.provision(bmk=bmk)
        scene.client.reopen_session(scene.credential, ticket).unmask(masked_key)

    for _ in range(50):
        migrate()
    vault, keys, memory = scene.module.status()["vault"], population(scene), resident_bytes()
    for _ in range(1000):
        migrate()
    assert scene.module.status()["vault"] == vault
    assert population(scene) == keys
    assert resident_bytes() - memory < GROWTH_BYTES
    scene.module.nssr()
    assert scene.module.status()["vault"]["bytes"] == 0


@pytest.mark.timeout(1800)
def test_two_hundred_restarts(tmp_path: Path) -> None:
    options = DeviceOptions(state=tmp_path / "state")
    memory = 0
    identities = set()
    for restart in range(220):
        with HsmDevice(options) as device:
            scene = Scene(device.function())
            scene.client.identity_key()
            identities.add((scene.module.serial, scene.module.partition.kept.record.leaf))
            if scene.client.sealed_bk3() is None:
                scene.client.set_sealed_bk3(b"sealed")
            scene.client.init_bk3(bytes(48))
        if restart == 20:
            memory = resident_bytes()
    assert len(identities) == 1
    assert len(list((tmp_path / "state").iterdir())) == 4
    assert resident_bytes() - memory < GROWTH_BYTES
