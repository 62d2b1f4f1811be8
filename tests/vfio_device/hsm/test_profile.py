# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The exact-firmware profile: every choice in which it differs from the default (spec README §3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import KeyRequest
from ihsm_abi import mbor
from ihsm_abi.ddi import (
    API_REV,
    AesKeySize,
    AttestKeyReq,
    DdiOp,
    DdiStatus,
    EccCurve,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    GetCertificateReq,
    GetCertificateResp,
    HashAlgorithm,
    KeyAttributeFlags,
    KeyType,
    KeyUsage,
    ReqHdr,
    encode_message,
    encode_request,
)
from ihsm_abi.ddi.masked_key import MaskedKey, MaskedKeyMetadata
from ihsm_abi.ddi.types import ErrResp
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.keystore import Handle, Owner, Scope
from ihsm_device.hsm.profile import DEFAULT, FIRMWARE, PROFILES, BulkNumbers
from ihsm_device.hsm.wire import der
from support.hsm import BK3, Scene, Stage, refused
from support.vectors import DERIVE, ENCRYPT, VectorBench
from support.waiting import until

UNDECODABLE_INIT_BK3 = encode_message(ReqHdr(rev=API_REV, op=DdiOp.InitBk3), ErrResp())


@pytest.fixture(scope="module")
def firmware() -> Iterator[Stage]:
    with HsmDevice(DeviceOptions(profile=FIRMWARE, validation_hooks=True)) as device:
        yield Stage(device)


@pytest.fixture
def scene(firmware: Stage) -> Scene:
    return firmware.fresh()


def test_profiles_by_name() -> None:
    assert {"default": DEFAULT, "firmware": FIRMWARE} == PROFILES
    choices = [field.name for field in dataclasses.fields(DEFAULT)]
    assert list(FIRMWARE.describe()) == choices
    same = [choice for choice in choices if getattr(DEFAULT, choice) == getattr(FIRMWARE, choice)]
    assert same == [], "a choice that no profile makes is none"


def test_init_bk3_once(scene: Scene) -> None:
    scene.client.init_bk3(BK3)
    assert refused(lambda: scene.client.init_bk3(BK3)) == DdiStatus.Bk3AlreadyInitialized
    assert scene.send(UNDECODABLE_INIT_BK3, ControlKind.NONE).status == DdiStatus.Bk3AlreadyInitialized


def provision(scene: Scene, masked_bk3: bytes, **backups: bytes) -> bytes:
    return scene.client.establish_credential(scene.credential, masked_bk3, scene.anchor, **backups)


def test_bmk_is_made_anew(scene: Scene) -> None:
    masked_bk3 = scene.client.init_bk3(BK3).masked_bk3
    bmk = provision(scene, masked_bk3)
    session = scene.open_session()
    key = session.generate_aes_key(AesKeySize.Aes128, KeyRequest(KeyUsage.EncryptDecrypt))
    scene.module.nssr()
    again = provision(scene, masked_bk3, bmk=bmk)
    assert len(again) == len(bmk)
    assert again != bmk
    scene.client.reopen_session(scene.credential, session.ticket).unmask(key.masked_key)


def test_unwrapping_key_may_be_pending_and_has_its_own_type(scene: Scene) -> None:
    masked_bk3 = scene.client.init_bk3(BK3).masked_bk3
    stock = scene.module.partition.device.unwrapping_keys
    while stock.try_take(scene.module.partition.owner(Scope.IDENTITY)) is None:
        pass  # empty the stock, so that this partition finds none
    provision(scene, masked_bk3)
    session = scene.open_session()
    statuses = set()
    while True:
        try:
            key = scene.unwrapping_key(session)
            break
        except StatusError as error:
            statuses.add(error.status)
    assert statuses <= {DdiStatus.PendingKeyGeneration}
    metadata, _ = mbor.decode(MaskedKeyMetadata, MaskedKey.parse(key.masked_key).metadata)
    assert metadata.key_type == KeyType.RsaUnwrap
    assert metadata.key_attributes.flags == KeyAttributeFlags.LOCAL | KeyAttributeFlags.UNWRAP
    assert refused(lambda: session.unmask(key.masked_key)) == DdiStatus.UnmaskUnwrappingKeyNotAllowed


def test_of_two_late_unwrapping_keys_the_first_is_kept(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second question is answered between the moment when a first one takes a key and that when it keeps it."""
    stock = scene.module.partition.device.unwrapping_keys
    try_take = stock.try_take
    with monkeypatch.context() as patched:
        patched.setattr(stock, "try_take", lambda owner: None)
        provision(scene, scene.client.init_bk3(BK3).masked_bk3)
        session, other = scene.open_session(), scene.open_session()
        assert refused(lambda: scene.unwrapping_key(session)) == DdiStatus.PendingKeyGeneration
    until(lambda: stock.full, "a key in stock")
    answers = []

    def take_and_be_late(owner: Owner) -> Handle | None:
        key = try_take(owner)
        monkeypatch.undo()
        until(lambda: stock.full, "a second key in stock")
        answers.append(scene.unwrapping_key(other))
        return key

    monkeypatch.setattr(stock, "try_take", take_and_be_late)
    late = scene.unwrapping_key(session)
    assert (late.key_id, late.pub_key) == (answers[0].key_id, answers[0].pub_key)
    assert scene.unwrapping_key(session).pub_key == late.pub_key


IKM = bytes(range(32))
"""Of the worked examples of spec 05 §11.3 and §11.4."""


def test_hkdf_without_a_salt_takes_256_zero_bytes(scene: Scene) -> None:
    """An empty salt stays what it is in RFC 5869."""
    bench = VectorBench(scene)
    known = {
        None: "1d27235a7201e47e801678ec356b47601aab8acaf2e52231869ab38f046fcbfb",
        b"": "f907287c1a9326ec0973fdba87ff0cd5c1afb6ac6408ea5258188a9fc4656418",
    }
    with bench.raw(IKM, KeyType.Secret256, DERIVE) as secret:
        for salt, value in known.items():
            key = bench.session.hkdf(secret, HashAlgorithm.Sha256, KeyType.Aes256, ENCRYPT, salt=salt, info=b"info-01")
            assert bench.reveal(key).hex() == value


def test_kbkdf_is_of_a_key_that_hkdf_made(scene: Scene) -> None:
    bench = VectorBench(scene)
    with bench.raw(IKM, KeyType.Secret256, DERIVE) as secret:
        key = bench.session.kbkdf(
            secret, HashAlgorithm.Sha256, KeyType.Aes256, ENCRYPT, label=b"label-01", context=b"context-01"
        )
        assert bench.reveal(key).hex() == "de83c53641ddcd1f1ab53fa4052b94cac06d2740558f83b152dac3fb84903f09"


@pytest.mark.parametrize(("size", "status"), [(0, DdiStatus.InvalidArg), (127, DdiStatus.InvalidArg), (128, None)])
def test_report_data_is_128_bytes(scene: Scene, size: int, status: DdiStatus | None) -> None:
    provision(scene, scene.client.init_bk3(BK3).masked_bk3)
    session = scene.open_session()
    key = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify))
    request = encode_request(AttestKeyReq(key_id=key.key_id, report_data=bytes(size)), session_id=session.session_id)
    answered = scene.send(request, ControlKind.IN_SESSION, session.session_id).status
    assert answered == (DdiStatus.Success if status is None else status)


def test_bulk_numbers_are_slot_and_group(firmware: Stage) -> None:
    scene = firmware.fresh(tables=2)
    provision(scene, scene.client.init_bk3(BK3).masked_bk3)
    session = scene.open_session()
    request = KeyRequest(KeyUsage.EncryptDecrypt)
    numbers = [session.generate_aes_key(AesKeySize.AesXtsBulk256, request).bulk_key_id for _ in range(9)]
    assert numbers == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert scene.module.partition.device.profile.bulk_numbers is BulkNumbers.SLOT_AND_GROUP


def test_a_lost_client_leaves_its_session_ids(scene: Scene) -> None:
    provision(scene, scene.client.init_bk3(BK3).masked_bk3)
    scene.open_session()
    scene.module.client_lost()
    assert scene.module.status()["sessions"] == {"0": "renegotiation"}


def test_the_leaf_has_the_real_form(scene: Scene) -> None:
    """The form of real devices, which strict verifiers refuse (spec 06 §1.8)."""
    channel = scene.client.channel
    number = channel.call(GetCertChainInfoReq(slot_id=0), GetCertChainInfoResp).num_certs
    alias, leaf = (
        channel.call(GetCertificateReq(slot_id=0, cert_id=at), GetCertificateResp).certificate
        for at in (number - 2, number - 1)
    )
    body = der.read(leaf).contents
    tbs = body[: der.read(body).end]
    assert len(tbs) == 422
    assert tbs[124:139] == b"20230101000000Z"
    assert tbs[141:156] == b"99991231235959Z"
    assert tbs[169:201].decode() == scene.module.partition.kept.identity.partition_id.hex().upper()
    assert bytes.fromhex("3003020100") in tbs
    key = x509.load_der_x509_certificate(alias).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    _check_signature(leaf, key)


def _check_signature(leaf: bytes, key: ec.EllipticCurvePublicKey) -> None:
    body = der.read(leaf).contents
    tbs_end = der.read(body).end
    algorithm_end = der.read(body, tbs_end).end
    signature = der.read(body, algorithm_end, tag=der.BIT_STRING).contents[1:]
    key.verify(signature, body[:tbs_end], ec.ECDSA(hashes.SHA384()))
