# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Import of wrapped keys: RsaUnwrap (spec 05 §12.4; RFC 8017 RSAES-OAEP, RFC 5649).

A payload whose private and public parts contradict each other is refused last, after usage, tag and space: the firmware
finds out when the key is stored already.
"""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    EccCurve,
    HashAlgorithm,
    KeyClass,
    KeyType,
    RsaCryptoPadding,
    RsaUnwrapReq,
    RsaUnwrapResp,
)
from ihsm_abi.ddi.formats import WRAPPED_KEK_BYTES
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.context import Context
from ihsm_device.hsm.curves import BY_ID
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.key_use import engine_failure
from ihsm_device.hsm.keystore import (
    DecodeError,
    Handle,
    Hash,
    KeySizeError,
    KeyStructureError,
    KeyUnwrapError,
    OaepError,
    PairwiseTest,
    PairwiseTestError,
)
from ihsm_device.hsm.keytypes import TYPES, Family
from ihsm_device.hsm.new_keys import Target, check_bulk_slot, store_key
from ihsm_device.hsm.operation import operation
from ihsm_device.hsm.vault import Entry

_MAX_KEK_BYTES: Final = 32
_AES_TYPE_OF_LENGTH: Final = {16: KeyType.Aes128, 24: KeyType.Aes192, 32: KeyType.Aes256}
_BULK_TYPE: Final = {
    KeyClass.AesXtsBulk: KeyType.AesXtsBulk256,
    KeyClass.AesGcmBulk: KeyType.AesGcmBulk256,
    KeyClass.AesGcmBulkUnapproved: KeyType.AesGcmBulk256Unapproved,
}
_BULK_BYTES: Final = 32
_RSA_TYPE: Final = {
    (info.modulus_bytes, info.crt): key_type for key_type, info in TYPES.items() if info.family is Family.RSA
}


@dataclass(frozen=True, slots=True)
class _Payload:
    """An unwrapped key."""

    type: KeyType
    key: Handle
    failure: DdiStatus | None = None
    """What the key is refused with once everything else about it has been accepted."""


@operation(DdiOp.RsaUnwrap, lane=Lane.SLOW)
def rsa_unwrap(context: Context, request: RsaUnwrapReq) -> RsaUnwrapResp:
    """Unwrap a key with the partition's unwrapping key and store it."""
    target = Target.read(request.key_properties, request.key_tag)
    unwrapping_key = _unwrapping_key(context, request.key_id)
    if len(request.wrapped_blob) < WRAPPED_KEK_BYTES:
        raise RefusedError(DdiStatus.RsaUnwrapInvalidRequest)
    encrypted_kek, wrapped_key = context.dialect.read_wrapped_blob(request.wrapped_blob)
    modulus = int.from_bytes(context.store.rsa_public(unwrapping_key.content.handle).n, "big")
    if not 1 < int.from_bytes(encrypted_kek, "big") < modulus - 1:
        raise RefusedError(DdiStatus.InvalidArg)
    if request.wrapped_blob_padding != RsaCryptoPadding.Oaep:
        raise RefusedError(DdiStatus.InvalidArg)
    if not request.wrapped_blob_hash_algorithm.known:
        raise RefusedError(DdiStatus.InvalidArg)
    kek = _decrypt_kek(context, unwrapping_key, encrypted_kek, request.wrapped_blob_hash_algorithm)
    try:
        unwrapped = context.store.aes_kwp_unwrap(kek, wrapped_key, context.owner(target.scope))
    except (KeySizeError, KeyUnwrapError):
        raise RefusedError(DdiStatus.RsaUnwrapAesUnwrapFailed) from None
    payload = _parse(context, target, request.wrapped_blob_key_class, context.scratch(unwrapped))
    target.check_usage(TYPES[payload.type].family)
    target.check_tag()
    stored = store_key(
        context,
        payload.key,
        payload.type,
        target.flags(local=False),
        tag=target.tag,
        label=target.label,
        failure=payload.failure,
    )
    return RsaUnwrapResp(
        key_id=stored.entry.key_id,
        pub_key=stored.public_key,
        bulk_key_id=stored.bulk_key_id,
        kind=payload.type,
        masked_key=stored.masked_key,
    )


def _unwrapping_key(context: Context, key_id: int) -> Entry:
    entry = context.entry(key_id)
    if not entry.content.internal:
        raise RefusedError(DdiStatus.InvalidPermissions)
    if entry is not context.provisioned.unwrapping_entry:
        raise RefusedError(DdiStatus.InvalidKeyType)
    return entry


def _decrypt_kek(context: Context, unwrapping_key: Entry, encrypted_kek: bytes, digest: HashAlgorithm) -> Handle:
    try:
        with engine_failure(DdiStatus.RsaDecryptFailed):
            kek = context.store.rsa_oaep_decrypt(
                unwrapping_key.content.handle, Hash(digest), encrypted_kek, context.owner()
            )
    except OaepError:
        raise RefusedError(DdiStatus.RsaUnwrapOaepDecodeFailed) from None
    context.scratch(kek)
    if context.store.size(kek) > _MAX_KEK_BYTES:
        raise RefusedError(DdiStatus.RsaUnwrapInvalidKek)
    return kek


def _parse(context: Context, target: Target, key_class: KeyClass, unwrapped: Handle) -> _Payload:
    """The key in an unwrapped payload, whose form follows from its class (spec 05 §12.4)."""
    if key_class in (KeyClass.Rsa, KeyClass.RsaCrt):
        return _parse_rsa(context, target, unwrapped, crt=key_class == KeyClass.RsaCrt)
    if key_class == KeyClass.Ecc:
        return _parse_ecc(context, target, unwrapped)
    if key_class == KeyClass.Aes:
        aes_type = _AES_TYPE_OF_LENGTH.get(context.store.size(unwrapped))
        if aes_type is None:
            raise RefusedError(DdiStatus.InvalidArg)
        return _Payload(aes_type, unwrapped)
    bulk_type = _BULK_TYPE.get(key_class)
    if bulk_type is None:
        raise RefusedError(DdiStatus.InvalidArg)
    target.check_usage(Family.BULK)
    if context.store.size(unwrapped) != _BULK_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)
    check_bulk_slot(context, bulk_type)
    return _Payload(bulk_type, unwrapped)


def _parse_rsa(context: Context, target: Target, der: Handle, *, crt: bool) -> _Payload:
    store = context.store
    try:
        with engine_failure(DdiStatus.FailedToPerformRsaModularInverse):
            key = context.scratch(store.rsa_import_der(der, crt, context.owner(target.scope)))
    except DecodeError:
        raise RefusedError(DdiStatus.KeyDecodeFailed) from None
    except KeySizeError:
        raise RefusedError(DdiStatus.InvalidKeyType) from None
    failure = None
    try:
        store.rsa_pairwise_test(key, PairwiseTest.ENCRYPT)
    except PairwiseTestError:
        failure = DdiStatus.PctValidationRsaUnwrapRsaKeyFailed
    return _Payload(_RSA_TYPE[store.size(key), crt], key, failure)


def _parse_ecc(context: Context, target: Target, der: Handle) -> _Payload:
    store = context.store
    try:
        key = context.scratch(store.ec_import_der(der, context.owner(target.scope)))
    except DecodeError:
        raise RefusedError(DdiStatus.KeyDecodeFailed) from None
    except KeyStructureError as error:
        # The payload itself stands in for the key that must not come to be: only its type and size count.
        return _Payload(BY_ID[EccCurve(error.curve)].form.private_type, der, DdiStatus.KeyStructuralValidationFailed)
    failure = None
    try:
        store.ec_pairwise_test(key, PairwiseTest.SIGN)
    except PairwiseTestError:
        failure = DdiStatus.PctValidationRsaUnwrapEccKeyFailed
    return _Payload(BY_ID[EccCurve(store.ec_curve(key))].form.private_type, key, failure)
