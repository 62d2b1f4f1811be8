# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The partition's RSA unwrapping key, and GetUnwrappingKey (spec 04 §9.12, 05 §12.3).

The key is kept across NSSR and disable; a masked one that EstablishCredential is given takes its place.
"""

from dataclasses import replace

from ihsm_abi.ddi import DdiOp, DdiStatus, GetUnwrappingKeyReq, GetUnwrappingKeyResp, KeyType
from ihsm_abi.ddi.masked_key import MaskedKeyMetadata
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import CURRENT_SVN, masking
from ihsm_device.hsm.keystore import Handle, PairwiseTest, PairwiseTestError, Scope
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import Entry, NewEntry, Volatile
from ihsm_device.hsm.wire import TYPES

UNWRAPPING_TYPE = KeyType.Rsa2kPrivate


def obtain_unwrapping_key(context: Context, masking_key: Handle, masked: bytes) -> Handle | None:
    """The key to provision with: the one masked in `masked`, else the kept one, else a new one.

    None only where the profile lets clients see that a new one is still being made.

    Raises:
        RefusedError: MaskedKeyDecodeFailed, AppNotFound (a key of a client).
    """
    if masked:
        key = context.scratch(_unmask(context, masking_key, masked))
        _check_restored(context, key)
        return key
    kept = context.partition.kept.unwrapping_key
    return kept if kept is not None else _new_key(context)


def store_unwrapping_key(context: Context, state: Volatile, key: Handle) -> Entry:
    """Put the key into the vault, and keep it; lock held."""
    metadata = context.profile.unwrapping_key_metadata
    size = TYPES[UNWRAPPING_TYPE].vault_bytes
    entry = state.vault.add(NewEntry(UNWRAPPING_TYPE, key, size, metadata.flags, internal=True))
    kept = context.partition.kept
    if kept.unwrapping_key != key:
        if kept.unwrapping_key is not None:
            context.store.destroy(kept.unwrapping_key)
        kept.unwrapping_key = context.keep(key)
    return entry


@operation(DdiOp.GetUnwrappingKey)
def get_unwrapping_key(context: Context, request: GetUnwrappingKeyReq) -> GetUnwrappingKeyResp:
    """Number, public half and masked form of the unwrapping key."""
    entry = context.provisioned.unwrapping_entry or _late_key(context)
    key = entry.content.handle
    profiled = context.profile.unwrapping_key_metadata
    metadata = MaskedKeyMetadata(
        svn=CURRENT_SVN,
        key_type=profiled.key_type,
        key_attributes=masking.unwrapping_key_attributes(profiled.flags),
        bks2_index=0,
        key_label=b"",
        key_length=entry.content.value_bytes,
    )
    return GetUnwrappingKeyResp(
        key_id=entry.key_id,
        pub_key=context.dialect.rsa_public_key(context.store.rsa_public(key)),
        masked_key=masking.mask(context.store, context.provisioned.masking_key, key, metadata),
    )


def _new_key(context: Context) -> Handle | None:
    stock, owner = context.partition.device.unwrapping_keys, context.owner(Scope.IDENTITY)
    if context.profile.unwrapping_key_may_be_pending:
        key = stock.try_take(owner)
        return None if key is None else context.scratch(key)
    return context.scratch(stock.take(owner))


def _late_key(context: Context) -> Entry:
    """The key that was not ready when the partition was provisioned."""
    key = _new_key(context)
    if key is None:
        raise RefusedError(DdiStatus.PendingKeyGeneration)
    with context.locked() as state:
        provisioned = context.provisioned
        if provisioned.unwrapping_entry is None:
            entry = store_unwrapping_key(context, state, key)
            state.provisioned = replace(provisioned, unwrapping_entry=entry)
        else:
            entry = provisioned.unwrapping_entry
    return entry


def _check_restored(context: Context, key: Handle) -> None:
    """A restored key is tested before it is used, as a new one is (spec 06 §3.3)."""
    try:
        context.store.rsa_pairwise_test(key, PairwiseTest.ENCRYPT)
    except PairwiseTestError as error:
        context.partition.device.enter_error_state(f"pairwise test of the unwrapping key: {error}")
        raise RefusedError(DdiStatus.PctValidationUnwrappingKeyFailed) from None


def _unmask(context: Context, masking_key: Handle, masked: bytes) -> Handle:
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        blob = masking.read(masked)
        masking.verify(context.store, masking_key, blob)
    if not blob.of_device:
        raise RefusedError(DdiStatus.AppNotFound)
    with masking.refused_as(DdiStatus.MaskedKeyDecodeFailed):
        return masking.unmask_key(context.store, masking_key, blob, UNWRAPPING_TYPE, 0, context.owner(Scope.IDENTITY))
