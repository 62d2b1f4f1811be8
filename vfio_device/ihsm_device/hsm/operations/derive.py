# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys derived from secrets: HkdfDerive, KbkdfCounterHmacDerive (spec 05 §11)."""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import (
    DdiOp,
    DdiStatus,
    HkdfDeriveReq,
    HkdfDeriveResp,
    KbkdfCounterHmacDeriveReq,
    KbkdfCounterHmacDeriveResp,
    KeyType,
    KeyUsage,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle, Hash
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure, require_family, require_usage
from ihsm_device.hsm.operations.new_keys import StoredKey, Target, check_bulk_slot, store_key
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.wire import TYPES, Family, TypeInfo

OUTPUT_FAMILIES: Final = frozenset({Family.AES, Family.BULK, Family.HMAC})
ENGINE_LIMIT_BYTES: Final = {Hash.SHA1: 172, Hash.SHA256: 160, Hash.SHA384: 128, Hash.SHA512: 128}
"""Most that the derivation engine gives, by hash (spec 05 §11.2 row 6)."""
_FIRMWARE_SALT: Final = bytes(256)
"""What the firmware takes for an absent salt."""
_FIRMWARE_KDK_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class _Derivation:
    """A derivation request whose input key, output type and hash are acceptable."""

    target: Target
    secret: Handle
    digest: Hash
    key_type: KeyType
    info: TypeInfo
    length: int

    def store(self, context: Context, key: Handle) -> StoredKey:
        """Put the derived key into the vault."""
        return store_key(
            context,
            key,
            self.key_type,
            self.target.flags(local=True),
            tag=self.target.tag,
            label=self.target.label,
            variable_bytes=self.length if self.info.lengths else 0,
        )


@operation(DdiOp.HkdfDerive)
def hkdf_derive(context: Context, request: HkdfDeriveReq) -> HkdfDeriveResp:
    """HKDF, extract then expand (spec 05 §11.3; RFC 5869)."""
    derivation = _admit(context, request, DdiStatus.HkdfError, shortest=0)
    salt = request.salt
    if salt is None and not context.profile.hkdf_absent_salt_is_empty:
        salt = _FIRMWARE_SALT
    with engine_failure(DdiStatus.HkdfError):
        key = context.store.hkdf(
            derivation.secret,
            derivation.digest,
            salt,
            request.info or b"",
            derivation.length,
            context.owner(derivation.target.scope),
        )
    stored = derivation.store(context, context.scratch(key))
    return HkdfDeriveResp(key_id=stored.entry.key_id, masked_key=stored.masked_key, bulk_key_id=stored.bulk_key_id)


@operation(DdiOp.KbkdfCounterHmacDerive)
def kbkdf_counter_hmac_derive(context: Context, request: KbkdfCounterHmacDeriveReq) -> KbkdfCounterHmacDeriveResp:
    """KBKDF in counter mode (spec 05 §11.4; SP 800-108)."""
    derivation = _admit(context, request, DdiStatus.KbkdfError, shortest=1)
    owner, kdf_context = context.owner(derivation.target.scope), request.context or b""
    with engine_failure(DdiStatus.KbkdfError):
        secret = derivation.secret
        if not context.profile.kbkdf_direct:
            secret = context.scratch(
                context.store.hkdf(secret, derivation.digest, b"", kdf_context, _FIRMWARE_KDK_BYTES, owner)
            )
        key = context.store.kbkdf(
            secret, derivation.digest, request.label or b"", [kdf_context], derivation.length, owner
        )
    stored = derivation.store(context, context.scratch(key))
    return KbkdfCounterHmacDeriveResp(
        key_id=stored.entry.key_id, masked_key=stored.masked_key, bulk_key_id=stored.bulk_key_id
    )


def _admit(
    context: Context, request: HkdfDeriveReq | KbkdfCounterHmacDeriveReq, failure: DdiStatus, *, shortest: int
) -> _Derivation:
    """All checks of a derivation, in order; `failure` is what the engine answers to a length that it cannot give.

    The engine would refuse before target usage, length, slots and tag are looked at, and it refuses for its length
    alone; so the derivation itself can wait until all of them have been.
    """
    target = Target.read(request.key_properties, request.key_tag)
    entry = context.find_own(request.key_id)
    require_family(entry, Family.SECRET)
    require_usage(entry, KeyUsage.Derive)
    info = TYPES.get(request.key_type)
    if info is None or info.family not in OUTPUT_FAMILIES:
        raise RefusedError(DdiStatus.InvalidKeyType)
    length = info.secret_bytes
    if info.lengths is not None:
        if request.key_length is None:
            raise RefusedError(DdiStatus.InvalidKeyType)
        length = request.key_length
    if not request.hash_algorithm.known:
        raise RefusedError(DdiStatus.InvalidArg)
    digest = Hash(request.hash_algorithm)
    if not shortest <= length <= ENGINE_LIMIT_BYTES[digest]:
        raise RefusedError(failure)
    target.check_usage(info.family)
    if info.lengths is not None and length not in info.lengths:
        raise RefusedError(DdiStatus.InvalidKeyLength)
    check_bulk_slot(context, request.key_type)
    target.check_tag()
    return _Derivation(target, entry.content.handle, digest, request.key_type, info, length)
