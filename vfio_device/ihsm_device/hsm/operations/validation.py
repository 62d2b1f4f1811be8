# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The firmware's validation operations, 2002 and 2004 to 2010 (spec 03 §15, 05 §3.1).

They exist in a device started with validation hooks and let published vectors reach the device's own primitives; some
hand out keys. 2001 and 2003 have no handler in the firmware either.
"""

from typing import Final

from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi import DdiOp, DdiStatus
from ihsm_abi.ddi.firmware_ops import (
    DerKeyImportReq,
    DerKeyImportResp,
    GetPrivKeyReq,
    GetPrivKeyResp,
    GetRngGenerateReq,
    GetRngGenerateResp,
    RawKeyImportReq,
    RawKeyImportResp,
    RsaUnwrapKekReq,
    RsaUnwrapKekResp,
    ShaDigestGenerateReq,
    ShaDigestGenerateResp,
    SoftAesOp,
    SoftAesReq,
    SoftAesResp,
    TestAction,
    TestActionReq,
    TestActionResp,
)
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle, Hash, KeySizeError, KeyStructureError, KeyUnwrapError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.new_keys import Target, store_key
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.operations.payload import parse
from ihsm_device.hsm.operations.unwrap import decrypt_kek
from ihsm_device.hsm.wire import AES_TYPE_OF_LENGTH, BY_PRIVATE_TYPE, TYPES, Family

_MAX_RANDOM_BYTES: Final = 64


@operation(DdiOp.DerKeyImport, lane=Lane.SLOW, validation_hook=True, reports_fips=False)
def der_key_import(context: Context, request: DerKeyImportReq) -> DerKeyImportResp:
    """Import a key in the clear, by the rules of RsaUnwrap for its payload."""
    target = Target.read(request.key_properties, request.key_tag)
    payload = parse(context, target, request.key_class, _secret(context, request.der))
    stored = payload.store(context, target)
    return DerKeyImportResp(
        key_id=stored.entry.key_id,
        pub_key=stored.public_key,
        bulk_key_id=stored.bulk_key_id,
        key_type=payload.type,
        masked_key=stored.masked_key,
    )


@operation(DdiOp.TestAction, validation_hook=True, reports_fips=False)
def test_action(context: Context, request: TestActionReq) -> TestActionResp:
    """Change the FIPS state or the PIN policy; the faults of the chip that other actions name do not exist here."""
    if request.action == TestAction.ToggleFipsApprovedState:
        context.partition.device.fips_approved = not context.partition.device.fips_approved
    elif request.action == TestAction.PinPolicyClear:
        with context.locked() as state:
            state.pin_policy.succeeded()
    else:
        raise RefusedError(DdiStatus.UnsupportedCmd)
    return TestActionResp()


@operation(DdiOp.GetPrivKey, validation_hook=True, reports_fips=False)
def get_priv_key(context: Context, request: GetPrivKeyReq) -> GetPrivKeyResp:
    """Hand out a client's key in the form of the vault (spec 05 §5.6)."""
    entry = context.find_own(request.key_id)
    if entry.content.type is None:
        raise RefusedError(DdiStatus.InvalidKeyType)
    data = context.store.hook_reveal(entry.content.handle)
    info = TYPES[entry.content.type]
    if info.family is Family.ECC:
        data = data[: info.vault_bytes]
    return GetPrivKeyResp(key_kind=entry.content.type, key_data=data)


@operation(DdiOp.ShaDigest, validation_hook=True, reports_fips=False)
def sha_digest(context: Context, request: ShaDigestGenerateReq) -> ShaDigestGenerateResp:
    """Hash a message with the device's own implementation."""
    if not request.sha_mode.known:
        raise RefusedError(DdiStatus.InvalidArg)
    return ShaDigestGenerateResp(digest=context.store.digest(Hash(request.sha_mode), request.msg))


@operation(DdiOp.GetRandomNumber, validation_hook=True, reports_fips=False)
def get_random_number(context: Context, request: GetRngGenerateReq) -> GetRngGenerateResp:
    """Random bytes, at most 64."""
    if request.rng_len > _MAX_RANDOM_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)
    return GetRngGenerateResp(rng_number=context.store.random(request.rng_len))


@operation(DdiOp.RawKeyImport, validation_hook=True, reports_fips=False)
def raw_key_import(context: Context, request: RawKeyImportReq) -> RawKeyImportResp:
    """Import a symmetric key, a secret or a little-endian EC scalar in the clear."""
    target = Target.read(request.key_properties, request.key_tag)
    info = TYPES.get(request.key_kind)
    if info is None or info.family is Family.RSA:
        raise RefusedError(DdiStatus.InvalidKeyType)
    target.check_usage(info.family)
    target.check_tag()
    if info.family is Family.ECC:
        key = _ec_key(context, target, request)
    else:
        lengths = info.lengths or (info.secret_bytes,)
        if len(request.raw) not in lengths:
            raise RefusedError(DdiStatus.InvalidKeyLength)
        key = context.scratch(context.store.import_secret(request.raw, context.owner(target.scope)))
    stored = store_key(
        context,
        key,
        request.key_kind,
        target.flags(local=False),
        tag=target.tag,
        label=target.label,
        variable_bytes=len(request.raw) if info.lengths is not None else 0,
    )
    return RawKeyImportResp(key_id=stored.entry.key_id, bulk_key_id=stored.bulk_key_id, masked_key=stored.masked_key)


@operation(DdiOp.SoftAes, validation_hook=True, reports_fips=False)
def soft_aes(context: Context, request: SoftAesReq) -> SoftAesResp:
    """Unwrap (RFC 5649) or ECB-decrypt with a key given in the clear."""
    if len(request.key) not in AES_TYPE_OF_LENGTH:
        raise RefusedError(DdiStatus.InvalidArg)
    key = _secret(context, request.key)
    if request.op == SoftAesOp.Kwp:
        try:
            unwrapped = context.scratch(context.store.aes_kwp_unwrap(key, request.inout, context.owner()))
        except (KeySizeError, KeyUnwrapError):
            raise RefusedError(DdiStatus.FailedSoftAesResponse) from None
        return SoftAesResp(plaintext=context.store.hook_reveal(unwrapped))
    if request.op != SoftAesOp.EcbDecrypt or not request.inout or len(request.inout) % AES_BLOCK_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)
    return SoftAesResp(plaintext=context.store.hook_aes_ecb_decrypt(key, request.inout))


@operation(DdiOp.RsaUnwrapKekTest, lane=Lane.SLOW, validation_hook=True, reports_fips=False)
def rsa_unwrap_kek_test(context: Context, request: RsaUnwrapKekReq) -> RsaUnwrapKekResp:
    """The key-encryption key of a wrapped blob, in the clear."""
    kek, _ = decrypt_kek(
        context,
        request.key_id,
        request.wrapped_blob,
        request.wrapped_blob_padding,
        request.wrapped_blob_hash_algorithm,
    )
    return RsaUnwrapKekResp(kek=context.store.hook_reveal(kek))


def _secret(context: Context, value: bytes) -> Handle:
    return context.scratch(context.store.import_secret(value, context.owner()))


def _ec_key(context: Context, target: Target, request: RawKeyImportReq) -> Handle:
    curve = BY_PRIVATE_TYPE[request.key_kind]
    if len(request.raw) not in (curve.size, curve.form.padded_bytes):
        raise RefusedError(DdiStatus.InvalidKeyLength)
    scalar = _secret(context, request.raw[: curve.size][::-1])
    try:
        return context.scratch(context.store.ec_import_scalar(curve.id, scalar, context.owner(target.scope)))
    except KeyStructureError:
        raise RefusedError(DdiStatus.KeyStructuralValidationFailed) from None
