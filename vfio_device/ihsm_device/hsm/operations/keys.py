# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The life of stored keys: DeleteKey, OpenKey, UnmaskKey (spec 05 §13, §16.3)."""

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    DeleteKeyReq,
    DeleteKeyResp,
    KeyAttributeFlags,
    OpenKeyReq,
    OpenKeyResp,
    UnmaskKeyReq,
    UnmaskKeyResp,
)
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import masking
from ihsm_device.hsm.keystore import Scope
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.new_keys import bulk_key_id, check_bulk_slot, masking_key, public_key, store_key
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.wire import TYPES


@operation(DdiOp.DeleteKey)
def delete_key(context: Context, request: DeleteKeyReq) -> DeleteKeyResp:
    """Delete a key; its number and tag can be used again (spec 05 §13)."""
    entry = context.find(request.key_id)
    if entry.content.type is None:
        raise RefusedError(DdiStatus.KeyNotFound)
    if entry.content.internal:
        raise RefusedError(DdiStatus.CannotDeleteInternalKeys)
    with context.locked() as state:
        if state.vault.get(request.key_id) is not entry:
            raise RefusedError(DdiStatus.KeyNotFound)
        context.partition.remove_key(entry)
    return DeleteKeyResp()


@operation(DdiOp.OpenKey)
def open_key(context: Context, request: OpenKeyReq) -> OpenKeyResp:
    """Find a key by its tag; session-only keys have none (spec 05 §13)."""
    with context.locked() as state:
        entry = state.vault.by_tag(request.key_tag)
    if entry is None or entry.content.type is None:
        raise RefusedError(DdiStatus.KeyNotFound)
    return OpenKeyResp(
        key_id=entry.key_id,
        key_kind=entry.content.type,
        pub_key=public_key(context, entry),
        bulk_key_id=bulk_key_id(context, entry),
    )


@operation(DdiOp.UnmaskKey, lane=Lane.SLOW)
def unmask_key(context: Context, request: UnmaskKeyReq) -> UnmaskKeyResp:
    """Bring a masked key back under a new number, with the attributes, tag and label it had (spec 05 §16.3)."""
    try:
        blob = masking.read(request.masked_key)
        flags = blob.metadata.key_attributes.flags
        masking.verify(context.store, masking_key(context, flags), blob)
    except masking.UnmaskError:
        raise RefusedError(DdiStatus.MaskedKeyDecodeFailed) from None
    if blob.of_device:
        raise RefusedError(DdiStatus.UnmaskUnwrappingKeyNotAllowed)
    key_type, tag = blob.metadata.key_type, blob.metadata.key_tag
    info = TYPES.get(key_type)
    if info is None:
        raise RefusedError(DdiStatus.InvalidArg)
    check_bulk_slot(context, key_type)
    session_only = bool(flags & KeyAttributeFlags.SESSION)
    if tag is not None and (session_only or tag == 0):
        raise RefusedError(DdiStatus.InvalidArg)
    length = blob.metadata.key_length if info.lengths is not None else info.vault_bytes
    if blob.metadata.key_length != length or (info.lengths is not None and length not in info.lengths):
        raise RefusedError(DdiStatus.InvalidArg)

    owner = context.owner(Scope.SESSION if session_only else Scope.PARTITION)
    secret_bytes = info.secret_bytes or length
    try:
        key = masking.unmask_key(context.store, masking_key(context, flags), blob, key_type, secret_bytes, owner)
    except masking.UnmaskError:
        raise RefusedError(DdiStatus.MaskedKeyDecodeFailed) from None
    stored = store_key(
        context,
        context.scratch(key),
        key_type,
        flags,
        tag=tag,
        label=blob.metadata.key_label,
        variable_bytes=length if info.lengths is not None else 0,
    )
    return UnmaskKeyResp(
        key_id=stored.entry.key_id,
        pub_key=stored.public_key,
        bulk_key_id=stored.bulk_key_id,
        kind=key_type,
        masked_key=stored.masked_key,
    )
