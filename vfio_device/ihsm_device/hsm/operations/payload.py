# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that arrive as payloads: what each class of imported key looks like (spec 05 §12.4)."""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import DdiStatus, KeyClass, KeyType
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import (
    DecodeError,
    Handle,
    KeySizeError,
    KeyStructureError,
    PairwiseTest,
    PairwiseTestError,
)
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure
from ihsm_device.hsm.operations.new_keys import StoredKey, Target, check_bulk_slot, store_key
from ihsm_device.hsm.wire import AES_TYPE_OF_LENGTH, BY_ID, TYPES, Family

_BULK_TYPE: Final = {
    KeyClass.AesXtsBulk: KeyType.AesXtsBulk256,
    KeyClass.AesGcmBulk: KeyType.AesGcmBulk256,
    KeyClass.AesGcmBulkUnapproved: KeyType.AesGcmBulk256Unapproved,
}
_EC_TYPE: Final = {curve.size: curve.form.private_type for curve in BY_ID.values()}
_RSA_TYPE: Final = {
    (info.modulus_bytes, info.crt): key_type for key_type, info in TYPES.items() if info.family is Family.RSA
}


@dataclass(frozen=True, slots=True)
class Payload:
    """An imported key that is not stored yet."""

    type: KeyType
    key: Handle
    """For parts that contradict each other the undecoded payload, which is as good: no key comes to be."""
    failure: DdiStatus | None = None
    """What the key is refused with once everything else about it has been accepted."""

    def store(self, context: Context, target: Target) -> StoredKey:
        """Put the key into the vault, after the checks of usage and tag."""
        target.check_usage(TYPES[self.type].family)
        target.check_tag()
        return store_key(
            context,
            self.key,
            self.type,
            target.flags(local=False),
            tag=target.tag,
            label=target.label,
            failure=self.failure,
        )


def parse(context: Context, target: Target, key_class: KeyClass, unwrapped: Handle) -> Payload:
    """The key in a payload, a scratch secret, whose form follows from its class.

    Raises:
        RefusedError: InvalidArg (class, size), KeyDecodeFailed, InvalidKeyType (RSA size),
            FailedToPerformRsaModularInverse; for bulk keys also InvalidPermissions and ReachedMaxAesBulkKeys.
    """
    if key_class in (KeyClass.Rsa, KeyClass.RsaCrt):
        return _parse_rsa(context, target, unwrapped, crt=key_class == KeyClass.RsaCrt)
    if key_class == KeyClass.Ecc:
        return _parse_ecc(context, target, unwrapped)
    if key_class == KeyClass.Aes:
        aes_type = AES_TYPE_OF_LENGTH.get(context.store.size(unwrapped))
        if aes_type is None:
            raise RefusedError(DdiStatus.InvalidArg)
        return Payload(aes_type, unwrapped)
    bulk_type = _BULK_TYPE.get(key_class)
    if bulk_type is None:
        raise RefusedError(DdiStatus.InvalidArg)
    target.check_usage(Family.BULK)
    if context.store.size(unwrapped) != TYPES[bulk_type].secret_bytes:
        raise RefusedError(DdiStatus.InvalidArg)
    check_bulk_slot(context, bulk_type)
    return Payload(bulk_type, unwrapped)


def _parse_rsa(context: Context, target: Target, der: Handle, *, crt: bool) -> Payload:
    store = context.store
    try:
        with engine_failure(DdiStatus.FailedToPerformRsaModularInverse):
            key = context.scratch(store.rsa_import_der(der, crt, context.owner(target.scope)))
    except DecodeError:
        raise RefusedError(DdiStatus.KeyDecodeFailed) from None
    except KeySizeError:
        raise RefusedError(DdiStatus.InvalidKeyType) from None
    except KeyStructureError as error:
        rsa_type = _RSA_TYPE[error.size_bytes, crt]
        return Payload(rsa_type, der, DdiStatus.PctValidationRsaUnwrapRsaKeyFailed)
    failure = None
    try:
        store.rsa_pairwise_test(key, PairwiseTest.ENCRYPT)
    except PairwiseTestError:
        failure = DdiStatus.PctValidationRsaUnwrapRsaKeyFailed
    return Payload(_RSA_TYPE[store.size(key), crt], key, failure)


def _parse_ecc(context: Context, target: Target, der: Handle) -> Payload:
    store = context.store
    try:
        key = context.scratch(store.ec_import_der(der, context.owner(target.scope)))
    except DecodeError:
        raise RefusedError(DdiStatus.KeyDecodeFailed) from None
    except KeyStructureError as error:
        return Payload(_EC_TYPE[error.size_bytes], der, DdiStatus.KeyStructuralValidationFailed)
    failure = None
    try:
        store.ec_pairwise_test(key, PairwiseTest.SIGN)
    except PairwiseTestError:
        failure = DdiStatus.PctValidationRsaUnwrapEccKeyFailed
    return Payload(_EC_TYPE[store.size(key)], key, failure)
