# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The firmware's validation operations: what they answer, and what they refuse (spec 03 §15, 05 §3.1, §5.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.session import Session
from ihsm_abi.ddi import (
    AesKeySize,
    AesOp,
    DdiStatus,
    GetDeviceInfoReq,
    GetDeviceInfoResp,
    HashAlgorithm,
    KeyType,
    KeyUsage,
    firmware_ops,
)
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support.hsm import Scene, Stage, refused

ENCRYPT, SIGN = KeyRequest(KeyUsage.EncryptDecrypt), KeyRequest(KeyUsage.SignVerify)
SCALAR = 0x1122334455667788


@pytest.fixture(scope="module")
def hooked() -> Iterator[Stage]:
    with HsmDevice(DeviceOptions(validation_hooks=True)) as device:
        yield Stage(device)


@pytest.fixture
def scene(hooked: Stage) -> Scene:
    scene = hooked.clean()
    scene.provision()
    return scene


@pytest.fixture
def session(scene: Scene) -> Session:
    return scene.open_session()


def act(session: Session, action: firmware_ops.TestAction) -> None:
    session.call(firmware_ops.TestActionReq(action=action), firmware_ops.TestActionResp)


def import_raw(session: Session, raw: bytes, kind: KeyType, request: KeyRequest) -> Key:
    answer = session.call(
        firmware_ops.RawKeyImportReq(raw=raw, key_kind=kind, key_properties=request.properties),
        firmware_ops.RawKeyImportResp,
    )
    return Key(answer.key_id, kind, masked_key=answer.masked_key)


def reveal(session: Session, key_id: int) -> firmware_ops.GetPrivKeyResp:
    return session.call(firmware_ops.GetPrivKeyReq(key_id=key_id), firmware_ops.GetPrivKeyResp)


def test_the_fips_state_is_toggled(scene: Scene, session: Session) -> None:
    def reported() -> bool:
        return scene.client.channel.call(GetDeviceInfoReq(), GetDeviceInfoResp).fips_approved

    for expected in (True, False):
        act(session, firmware_ops.TestAction.ToggleFipsApprovedState)
        assert reported() is expected


def test_a_lock_out_is_cleared(scene: Scene, session: Session) -> None:
    scene.state.pin_policy.locked_until = float("inf")
    assert refused(scene.open_session) == DdiStatus.LoginFailed
    act(session, firmware_ops.TestAction.PinPolicyClear)
    scene.open_session()


def test_faults_that_the_device_has_not_are_unsupported(session: Session) -> None:
    known = {firmware_ops.TestAction.ToggleFipsApprovedState, firmware_ops.TestAction.PinPolicyClear}
    for action in [*(set(firmware_ops.TestAction) - known), firmware_ops.TestAction(99)]:
        assert refused(lambda action=action: act(session, action)) == DdiStatus.UnsupportedCmd  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "size", "stored"),
    [(KeyType.Ecc256Private, 32, 32), (KeyType.Ecc384Private, 48, 48), (KeyType.Ecc521Private, 66, 68)],
)
def test_a_private_key_is_handed_out_little_endian(session: Session, kind: KeyType, size: int, stored: int) -> None:
    """In as many bytes as the vault has of it, whether it came in so many or in as many as the curve has."""
    for width in (size, stored):
        key = import_raw(session, SCALAR.to_bytes(width, "little"), kind, SIGN)
        answer = reveal(session, key.key_id)
        assert (answer.key_kind, answer.key_data) == (kind, SCALAR.to_bytes(stored, "little"))


def test_objects_that_are_no_keys_are_not_handed_out(scene: Scene, session: Session) -> None:
    """The object of the session itself; internal keys belong to nobody."""
    (of_session,) = scene.state.vault.of_session(scene.live(session.session_id))
    assert refused(lambda: reveal(session, of_session.key_id)) == DdiStatus.InvalidKeyType
    masking_key = scene.state.provisioned.masking_entry.key_id
    assert refused(lambda: reveal(session, masking_key)) == DdiStatus.InvalidPermissions


def test_a_raw_key_of_a_kind_that_has_no_raw_form(scene: Scene, session: Session) -> None:
    entries = scene.module.status()["vault"]["entries"]
    for kind in (KeyType.Rsa2kPrivate, KeyType.Rsa4kPrivateCrt, KeyType(999)):
        assert refused(lambda kind=kind: import_raw(session, bytes(32), kind, ENCRYPT)) == (  # type: ignore[misc]
            DdiStatus.InvalidKeyType
        )
    assert scene.module.status()["vault"]["entries"] == entries


@pytest.mark.parametrize(
    ("kind", "request_", "lengths"),
    [
        (KeyType.Aes128, ENCRYPT, {16}),
        (KeyType.AesGcmBulk256, ENCRYPT, {32}),
        (KeyType.Secret384, KeyRequest(KeyUsage.Derive), {48}),
        (KeyType.HmacSha256, SIGN, {32}),
        (KeyType.VarHmac256, SIGN, set(range(32, 65))),
        (KeyType.Ecc256Private, SIGN, {32}),
        (KeyType.Ecc521Private, SIGN, {66, 68}),
    ],
)
def test_a_raw_key_has_its_kinds_length(
    session: Session, kind: KeyType, request_: KeyRequest, lengths: set[int]
) -> None:
    for length in range(70):
        raw = bytes([1, *bytes(69)])[:length]
        if length in lengths:
            session.delete_key(import_raw(session, raw, kind, request_))
        else:
            with pytest.raises(StatusError, match="InvalidKeyLength"):
                import_raw(session, raw, kind, request_)


@pytest.mark.parametrize("scalar", [bytes(32), b"\xff" * 32], ids=["0", "beyond the order"])
def test_a_scalar_outside_the_curves_order(session: Session, scalar: bytes) -> None:
    assert refused(lambda: import_raw(session, scalar, KeyType.Ecc256Private, SIGN)) == (
        DdiStatus.KeyStructuralValidationFailed
    )


def test_digests(session: Session) -> None:
    for mode, name in ((HashAlgorithm.Sha256, "sha256"), (HashAlgorithm.Sha512, "sha512")):
        answer = session.call(
            firmware_ops.ShaDigestGenerateReq(sha_mode=mode, msg=b"abc"), firmware_ops.ShaDigestGenerateResp
        )
        assert answer.digest == hashlib.new(name, b"abc").digest()
    unknown = firmware_ops.ShaDigestGenerateReq(sha_mode=HashAlgorithm(9), msg=b"abc")
    assert refused(lambda: session.call(unknown, firmware_ops.ShaDigestGenerateResp)) == DdiStatus.InvalidArg


def test_random_bytes(session: Session) -> None:
    drawn = [
        session.call(firmware_ops.GetRngGenerateReq(rng_len=64), firmware_ops.GetRngGenerateResp).rng_number
        for _ in range(2)
    ]
    assert [len(number) for number in drawn] == [64, 64]
    assert drawn[0] != drawn[1]
    assert (
        refused(lambda: session.call(firmware_ops.GetRngGenerateReq(rng_len=65), firmware_ops.GetRngGenerateResp))
        == DdiStatus.InvalidArg
    )


@pytest.mark.parametrize(
    ("key", "data", "op", "status"),
    [
        (bytes(15), bytes(24), firmware_ops.SoftAesOp.Kwp, DdiStatus.InvalidArg),
        (bytes(32), bytes(24), firmware_ops.SoftAesOp.Kwp, DdiStatus.FailedSoftAesResponse),
        (bytes(32), b"", firmware_ops.SoftAesOp.EcbDecrypt, DdiStatus.InvalidArg),
        (bytes(32), bytes(17), firmware_ops.SoftAesOp.EcbDecrypt, DdiStatus.InvalidArg),
        (bytes(32), bytes(16), firmware_ops.SoftAesOp(7), DdiStatus.InvalidArg),
    ],
    ids=["key", "wrapped by another key", "nothing", "no block", "operation"],
)
def test_what_software_aes_refuses(
    session: Session, key: bytes, data: bytes, op: firmware_ops.SoftAesOp, status: DdiStatus
) -> None:
    request = firmware_ops.SoftAesReq(key=key, inout=data, op=op)
    assert refused(lambda: session.call(request, firmware_ops.SoftAesResp)) == status


def test_a_generated_key_is_handed_out_as_it_encrypts(session: Session) -> None:
    """What the device says a key is decrypts, in software AES, what the device encrypted with it."""
    key = session.generate_aes_key(AesKeySize.Aes256, ENCRYPT)
    ciphertext, _ = session.aes_cbc(key, AesOp.Encrypt, bytes(range(16)), bytes(16))
    request = firmware_ops.SoftAesReq(
        key=reveal(session, key.key_id).key_data, inout=ciphertext, op=firmware_ops.SoftAesOp.EcbDecrypt
    )
    assert session.call(request, firmware_ops.SoftAesResp).plaintext == bytes(range(16))
