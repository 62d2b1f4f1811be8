# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Import of wrapped keys: RsaUnwrap (spec 05 §12.4; RFC 8017 RSAES-OAEP, RFC 5649).

A payload whose private and public parts contradict each other is refused last, after usage, tag and space: the firmware
finds out when the key is stored already.
"""

from typing import Final

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    HashAlgorithm,
    RsaCryptoPadding,
    RsaUnwrapReq,
    RsaUnwrapResp,
)
from ihsm_abi.ddi.formats import WRAPPED_KEK_BYTES
from ihsm_device.hsm.command import Lane
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle, Hash, KeySizeError, KeyUnwrapError, OaepError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure
from ihsm_device.hsm.operations.new_keys import Target
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.operations.payload import parse
from ihsm_device.hsm.partition import Entry

_MAX_KEK_BYTES: Final = 32


@operation(DdiOp.RsaUnwrap, lane=Lane.SLOW)
def rsa_unwrap(context: Context, request: RsaUnwrapReq) -> RsaUnwrapResp:
    """Unwrap a key with the partition's unwrapping key and store it."""
    target = Target.read(request.key_properties, request.key_tag)
    kek, wrapped_key = decrypt_kek(
        context,
        request.key_id,
        request.wrapped_blob,
        request.wrapped_blob_padding,
        request.wrapped_blob_hash_algorithm,
    )
    try:
        unwrapped = context.store.aes_kwp_unwrap(kek, wrapped_key, context.owner(target.scope))
    except (KeySizeError, KeyUnwrapError):
        raise RefusedError(DdiStatus.RsaUnwrapAesUnwrapFailed) from None
    payload = parse(context, target, request.wrapped_blob_key_class, context.scratch(unwrapped))
    stored = payload.store(context, target)
    return RsaUnwrapResp(
        key_id=stored.entry.key_id,
        pub_key=stored.public_key,
        bulk_key_id=stored.bulk_key_id,
        kind=payload.type,
        masked_key=stored.masked_key,
    )


def decrypt_kek(
    context: Context, key_id: int, wrapped_blob: bytes, padding: RsaCryptoPadding, digest: HashAlgorithm
) -> tuple[Handle, bytes]:
    """The key-encryption key of a blob, as scratch, and the wrapped key behind it."""
    unwrapping_key = _unwrapping_key(context, key_id)
    if len(wrapped_blob) < WRAPPED_KEK_BYTES:
        raise RefusedError(DdiStatus.RsaUnwrapInvalidRequest)
    encrypted_kek, wrapped_key = context.dialect.read_wrapped_blob(wrapped_blob)
    modulus = int.from_bytes(context.store.rsa_public(unwrapping_key.content.handle).n, "big")
    if not 1 < int.from_bytes(encrypted_kek, "big") < modulus - 1:
        raise RefusedError(DdiStatus.InvalidArg)
    if padding != RsaCryptoPadding.Oaep:
        raise RefusedError(DdiStatus.InvalidArg)
    if not digest.known:
        raise RefusedError(DdiStatus.InvalidArg)
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
    return kek, wrapped_key


def _unwrapping_key(context: Context, key_id: int) -> Entry:
    entry = context.entry(key_id)
    if not entry.content.internal:
        raise RefusedError(DdiStatus.InvalidPermissions)
    if entry is not context.provisioned.unwrapping_entry:
        raise RefusedError(DdiStatus.InvalidKeyType)
    return entry
