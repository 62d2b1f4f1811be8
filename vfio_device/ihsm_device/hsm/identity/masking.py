# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Masked keys: keys encrypted and authenticated for the client to store (spec 04 §7, 03 §12, firmware's form)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ihsm_abi import mbor
from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi import DdiStatus, KeyAttributeFlags, KeyType
from ihsm_abi.ddi.limits import INTERNAL_APP_ID
from ihsm_abi.ddi.masked_key import (
    CBC_IV_BYTES,
    CBC_TAG_BYTES,
    MASKING_KEY_BYTES,
    MaskedKey,
    MaskedKeyAttributes,
    MaskedKeyError,
    MaskedKeyMetadata,
    MaskingKeyAlgorithm,
    masked_key_head,
)
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity.hierarchy import CURRENT_SVN, BackupSeeds, boot_masking_key
from ihsm_device.hsm.keystore import ArgumentError, AuthenticationError, DecodeError, Handle, KeyStore, Owner
from ihsm_device.hsm.wire import BY_PRIVATE_TYPE, MASKING_TYPE, TYPES, Family

_APP_ID = slice(10, 26)
_NO_ATTRIBUTES: Final = MaskedKeyAttributes.of(KeyAttributeFlags(0))


class UnmaskError(Exception):
    """A blob that is no masked key, or not one that this masking key made."""


@contextmanager
def refused_as(status: DdiStatus) -> Iterator[None]:
    """Turn an UnmaskError into an error response."""
    try:
        yield
    except UnmaskError:
        raise RefusedError(status) from None


@dataclass(frozen=True, slots=True)
class Blob:
    """A masked key whose structure and metadata are sound; nothing in it is authenticated yet."""

    data: bytes
    parts: MaskedKey
    metadata: MaskedKeyMetadata

    @property
    def of_device(self) -> bool:
        """Whether the device itself is named as the key's owner: the masked unwrapping key."""
        return self.metadata.key_attributes.blob[_APP_ID] == INTERNAL_APP_ID


def unwrapping_key_attributes(flags: KeyAttributeFlags) -> MaskedKeyAttributes:
    """Attributes of the masked unwrapping key, with the mark by which it is recognised (spec 04 §16.4)."""
    blob = bytearray(MaskedKeyAttributes.of(flags).blob)
    blob[_APP_ID] = INTERNAL_APP_ID
    return MaskedKeyAttributes(blob=bytes(blob))


def backup_metadata(label: bytes, length: int, *, bks2_index: int | None) -> MaskedKeyMetadata:
    """Metadata of the hierarchy's own blobs: masked BK3, BMK, BMK_session, BK_BOOT at rest."""
    return MaskedKeyMetadata(
        svn=CURRENT_SVN,
        key_type=MASKING_TYPE,
        key_attributes=_NO_ATTRIBUTES,
        bks2_index=bks2_index,
        key_label=label,
        key_length=length,
    )


def mask(store: KeyStore, masking_key: Handle, key: Handle, metadata: MaskedKeyMetadata) -> bytes:
    """Seal a key. The plaintext is followed by 1 to 16 zero bytes (spec 05 §16.2)."""
    iv = store.random(CBC_IV_BYTES)
    encrypted_size = (store.masked_plaintext_size(key) // AES_BLOCK_BYTES + 1) * AES_BLOCK_BYTES
    head = masked_key_head(iv, mbor.encode(metadata), encrypted_size)
    return store.mask(key, masking_key, head, iv, encrypted_size)


def read(data: bytes) -> Blob:
    """Take a blob apart, without a key; raises UnmaskError."""
    try:
        parts = MaskedKey.parse(data)
        metadata, _ = mbor.decode(MaskedKeyMetadata, parts.metadata)
    except (MaskedKeyError, mbor.MborDecodeError) as error:
        raise UnmaskError(str(error)) from error
    return Blob(data, parts, metadata)


def known_svn(blob: Blob, seeds: BackupSeeds) -> int:
    """The security version a backup was made under.

    Raises:
        RefusedError: MaskedKeyDecodeFailed without one, MaskingBkBootFailed for one that this device has no seed of.
    """
    if blob.metadata.svn is None:
        raise RefusedError(DdiStatus.MaskedKeyDecodeFailed)
    if blob.metadata.svn not in seeds.bks1:
        raise RefusedError(DdiStatus.MaskingBkBootFailed)
    return blob.metadata.svn


def verify(store: KeyStore, masking_key: Handle, blob: Blob) -> None:
    """Authenticate a blob under a masking key; raises UnmaskError."""
    sound = blob.parts.algorithm is MaskingKeyAlgorithm.AesCbc256Hmac384 and len(blob.parts.tag) == CBC_TAG_BYTES
    if not sound or not store.verify_masked(masking_key, blob.data):
        raise UnmaskError("the tag does not verify")


def unmask_secret(store: KeyStore, masking_key: Handle, blob: Blob, length: int, owner: Owner) -> Handle:
    """Authenticate and decrypt a symmetric key of `length` bytes; raises UnmaskError."""
    verify(store, masking_key, blob)
    parts = blob.parts
    try:
        return store.unmask_secret(
            masking_key, blob.data, parts.iv, parts.encrypted_key_offset, len(parts.encrypted_key), length, owner
        )
    except (AuthenticationError, DecodeError, ArgumentError) as error:
        raise UnmaskError(str(error)) from error


def unmask_masking_key(store: KeyStore, backup_key: Handle, blob: Blob, owner: Owner) -> Handle:
    """Open a BMK, a BMK_session or BK_BOOT at rest; raises UnmaskError."""
    return unmask_secret(store, backup_key, blob, MASKING_KEY_BYTES, owner)


def unmask_boot_key(store: KeyStore, seeds: BackupSeeds, data: bytes, owner: Owner) -> Handle:
    """Open BK_BOOT as it is stored at rest; raises UnmaskError."""
    bkx = boot_masking_key(store, seeds, CURRENT_SVN, owner)
    try:
        return unmask_masking_key(store, bkx, read(data), owner)
    finally:
        store.destroy(bkx)


def unmask_key(
    store: KeyStore, masking_key: Handle, blob: Blob, key_type: KeyType, length: int, owner: Owner
) -> Handle:
    """Authenticate and decrypt a client's key of a storable type; `length` counts for symmetric keys only.

    Raises:
        UnmaskError: not authentic, or the plaintext is no key of the type.
    """
    info, parts = TYPES[key_type], blob.parts
    if info.family not in (Family.ECC, Family.RSA):
        return unmask_secret(store, masking_key, blob, length, owner)
    verify(store, masking_key, blob)
    where = blob.data, parts.iv, parts.encrypted_key_offset, len(parts.encrypted_key)
    try:
        if info.family is Family.ECC:
            return store.unmask_ec(masking_key, *where, BY_PRIVATE_TYPE[key_type].id, owner)
        return store.unmask_rsa(masking_key, *where, 8 * info.modulus_bytes, info.crt, owner)
    except (AuthenticationError, DecodeError, ArgumentError) as error:
        raise UnmaskError(str(error)) from error
