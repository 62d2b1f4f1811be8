# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every value of the golden path, computed from the secrets by an independent implementation (spec 04 §5–§7, §14)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.ddi.credentials import Entropy
from ihsm.ddi.partition import Partition as Client
from ihsm_abi.ddi import (
    DeviceKind,
    GetSessionEncryptionKeyReq,
    GetSessionEncryptionKeyResp,
    KeyAttributeFlags,
    KeyType,
)
from ihsm_abi.ddi.limits import INTERNAL_APP_ID
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.identity import hierarchy
from ihsm_device.hsm.keystore import Curve, Handle, KeyStore, Owner
from ihsm_device.hsm.wire import P384, Point
from support import oracle, points
from support.hsm import BK3, CREDENTIAL, POTA_KEY, SEED, Scene

BKS1 = bytes.fromhex("9b4e4eb7adabdcd6b4d507eb68eb26992abbcab55cfb773bc4d0a88c2102b0ac")
BKS2 = bytes.fromhex("ad1a17e9ed38275e8b305db8190f82b62da25ac6f070a3e1759c6192ccf419a3")
POTA_SPKI = points.spki(POTA_KEY.public_key())
OWNER = Owner()
GOLDEN = {
    "BK_partition": "47b56aa95cbd67d1a0f2debf442fabef6dbc6d96a44a0166ead3c538075843bbda19a51e83cb9ec642e9425ecd69a448"
    "16f2add784f0a5c85da17907237a1bb6846cf1aaf56f8d5c3e9d992149186d30",
    "BK3_session": "097449162ffb7216999ec7b33d0609e437ec32acb177dd0a2d2eb317d6a512a0000346caf0b8eb8a7be35fd49a7d58ef",
    "BK_session": "c8b2338229acbbc2dcfeea0b6c61b30a8b297cb3a603f546132ae19515352466af0c49a3cec30926e1fef78eae00e4cc"
    "f2baed5042c64c7d2b6d3782cd86080023c81af970f77635ffdc2a1979ab82b0",
    "Z": "2ac3da23c114b5b1f3aa200cf3c57bebd1b3b880a0e68066ab5d00dda50dcfe6cd03410292346187a84b1f12d53569c0",
    "AES_K": "cbf53487626eb53711a88b1c21fdcbbe58b4b1f29da1dbca5618db5a35251da3",
    "MAC_K": "ff9e1af6eaaed82519ba698078d4959cd4e5e023d65050a5594fb87ec8031ecf76482735bb9b28ec6c9961d8c1722a95",
}
"""Spec 04 §14, firmware's derivations."""


@pytest.fixture
def store() -> Iterator[KeyStore]:
    store = KeyStore(validation_hooks=True)
    yield store
    store.close()


@pytest.fixture(params=[DeviceKind.Virtual, DeviceKind.Physical], ids=lambda kind: kind.name.lower())
def revealing(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A device whose keys the test may look at."""
    with HsmDevice(DeviceOptions(kind=request.param, validation_hooks=True)) as device:
        yield Scene(device.function())


def test_derivations_of_the_golden_path(store: KeyStore) -> None:
    def secret(value: bytes) -> Handle:
        return store.import_secret(value, OWNER)

    seeds = hierarchy.BackupSeeds({1: secret(BKS1)}, secret(BKS2))
    bk3, seed = secret(BK3), secret(SEED)
    pota = Point.from_uncompressed(P384, POTA_SPKI[-97:])
    root = hierarchy.session_root(store, bk3, OWNER)
    derived = {
        "BK_partition": hierarchy.partition_backup_key(store, bk3, pota, seeds, 1, OWNER),
        "BK3_session": root,
        "BK_session": hierarchy.session_backup_key(store, root, seed, seeds, 1, OWNER),
    }
    independent = oracle.Hierarchy(BK3, BKS1, BKS2)
    assert independent.partition_backup_key(POTA_SPKI).hex() == GOLDEN["BK_partition"]
    for name, handle in derived.items():
        assert store.hook_reveal(handle).hex() == GOLDEN[name], name


def test_credential_channel_of_the_golden_path(store: KeyStore) -> None:
    k_est = store.ec_import_scalar(Curve.P384, store.import_secret(b"\x11" * 48, OWNER), OWNER)
    client = ec.derive_private_key(int.from_bytes(b"\x22" * 48, "big"), ec.SECP384R1())
    nonce = bytes(range(32))
    peer = points.spki(client.public_key())[-97:]
    channel = store.credential_channel(k_est, peer, nonce, OWNER)
    device = load_der_public_key(P384.form.spki_prefix + store.ec_public(k_est))
    assert isinstance(device, ec.EllipticCurvePublicKey)
    shared = client.exchange(ec.ECDH(), device)
    assert shared.hex() == GOLDEN["Z"]
    assert store.hook_reveal(channel) == b"".join(oracle.channel_keys(shared, nonce))
    assert store.hook_reveal(channel).hex() == GOLDEN["AES_K"] + GOLDEN["MAC_K"]


def test_golden_path_of_a_device(revealing: Scene) -> None:
    """From power-on to an open session and back after NSSR, with every key recomputed."""
    scene, device = revealing, revealing.module.partition.device
    reveal = device.store.hook_reveal
    scene.client = Client(scene.transport, entropy=Entropy(random=lambda size: bytes(range(size))))
    seeds = device.identity.seeds
    independent = oracle.Hierarchy(BK3, reveal(seeds.bks1[1]), reveal(seeds.bks2))

    bmk = scene.provision()
    kept = scene.module.partition.kept
    assert kept.bk_boot is not None
    masked_bk3 = oracle.open_masked(scene.masked_bk3, reveal(kept.bk_boot))
    assert (masked_bk3.key, masked_bk3.metadata.svn, masked_bk3.metadata.key_label) == (BK3, 1, b"BK3")
    assert kept.record.bk_boot is not None
    bkx = oracle.kbkdf(hierarchy.BKX_CONSTANT, b"BK_BOOT_MK_DEFAULT", independent.bks1 + independent.bks2)
    assert oracle.open_masked(kept.record.bk_boot, bkx).key == reveal(kept.bk_boot)

    opened = oracle.open_masked(bmk, independent.partition_backup_key(POTA_SPKI))
    masking_key = opened.key
    assert len(bmk) == 292
    assert len(scene.masked_bk3) == 260
    assert (opened.metadata.key_type, opened.metadata.key_label) == (KeyType.AesCbc256Hmac384, b"MK")
    assert masking_key == reveal(scene.state.provisioned.masking_key)

    session = scene.open_session()
    backup = oracle.open_masked(session.ticket.bmk_session, independent.session_backup_key(SEED))
    assert len(session.ticket.bmk_session) == 284
    assert (backup.metadata.key_label, backup.metadata.bks2_index) == (b"SMK", None)
    assert backup.key == reveal(scene.live(0).masking_key)

    unwrapping = scene.unwrapping_key(session)
    masked = oracle.open_masked(unwrapping.masked_key, masking_key)
    attributes = masked.metadata.key_attributes
    assert (masked.metadata.key_type, attributes.blob[10:26]) == (KeyType.Rsa2kPrivate, INTERNAL_APP_ID)
    assert attributes.flags == KeyAttributeFlags.LOCAL | KeyAttributeFlags.WRAP | KeyAttributeFlags.UNWRAP
    public = load_der_public_key(unwrapping.pub_key.der).public_numbers()  # type: ignore[union-attr]
    assert int.from_bytes(masked.key[256:512], "little") == public.n  # type: ignore[union-attr]

    scene.module.nssr()
    scene.provision(bmk=bmk, masked_unwrapping_key=unwrapping.masked_key)
    assert reveal(scene.state.provisioned.masking_key) == masking_key
    again = scene.client.reopen_session(scene.credential, session.ticket)
    assert reveal(scene.live(0).masking_key) == backup.key
    assert scene.unwrapping_key(again).pub_key == unwrapping.pub_key


def test_encryption_keys_are_signed_by_the_identity(revealing: Scene) -> None:
    scene = revealing
    scene.provision()
    got = scene.client.channel.call(GetSessionEncryptionKeyReq(), GetSessionEncryptionKeyResp)
    scene.client.session_cipher()  # verifies the signature and raises if it is wrong
    assert got.nonce == scene.state.nonce
    assert CREDENTIAL.id == scene.module.partition.device.store.credential_id(scene.state.credential.id)


def test_backup_seeds_form_a_hash_stick(store: KeyStore) -> None:
    """The seed of an older version follows from the newer one's stick, and every version has its own."""
    secret = store.import_secret(bytes(48), OWNER)
    seeds = hierarchy.BackupSeeds.from_device_secret(store, secret)
    stick = oracle.kbkdf(bytes(48), b"BKS1Key", b"", 48)
    for _ in range(63):
        stick = oracle.kbkdf(stick, b"BKS1Key", bytes(48), 48)
    assert store.hook_reveal(seeds.bks1[1]) == oracle.kbkdf(stick, b"BKS", b"", 32)
    older = oracle.kbkdf(stick, b"BKS1Key", bytes(48), 48)
    assert store.hook_reveal(seeds.bks1[0]) == oracle.kbkdf(older, b"BKS", b"", 32)
    assert sorted(seeds.bks1) == [0, 1]
