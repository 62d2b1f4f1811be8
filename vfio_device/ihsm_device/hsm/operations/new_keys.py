# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all key-creating operations share: reading the requested properties, storing and masking the new key."""

from dataclasses import dataclass
from typing import NoReturn

from ihsm_abi.ddi import (
    DdiStatus,
    DerPublicKey,
    KeyAttributeFlags,
    KeyType,
    KeyUsage,
    TargetKeyFlags,
    TargetKeyProperties,
)
from ihsm_abi.ddi.masked_key import MaskedKeyAttributes, MaskedKeyMetadata
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.identity import CURRENT_SVN, masking
from ihsm_device.hsm.keystore import Handle, Scope
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.partition import BULK_KEYS_PER_TABLE, Entry, NewEntry
from ihsm_device.hsm.profile import BulkNumbers
from ihsm_device.hsm.wire import BY_PRIVATE_TYPE, TYPES, USAGE_FLAGS, USAGES, Family, Point


@dataclass(frozen=True, slots=True)
class Target:
    """The properties that a request gives a key to create."""

    usage: KeyUsage
    session: bool
    """The key ends with its session."""
    tag: int | None
    label: bytes

    @classmethod
    def read(cls, properties: TargetKeyProperties, tag: int | None) -> "Target":
        """Read them; refuses with InvalidPermissions unless the usage bits are exactly one of the four sets."""
        flags = properties.key_metadata.flags
        usage = flags.usage
        if usage is None:
            raise RefusedError(DdiStatus.InvalidPermissions)
        return cls(usage, bool(flags & TargetKeyFlags.SESSION), tag, properties.key_label)

    @property
    def scope(self) -> Scope:
        """How long the key lives."""
        return Scope.SESSION if self.session else Scope.PARTITION

    def check_usage(self, family: Family) -> None:
        """Refuse with InvalidPermissions if keys of the family cannot have the usage."""
        if self.usage not in USAGES[family]:
            raise RefusedError(DdiStatus.InvalidPermissions)

    def check_tag(self) -> None:
        """Refuse with InvalidArg a tag on a session-only key, and tag 0."""
        if self.tag is not None and (self.session or self.tag == 0):
            raise RefusedError(DdiStatus.InvalidArg)

    def flags(self, *, local: bool, usage: KeyUsage | None = None) -> KeyAttributeFlags:
        """The attribute word to store; `usage` replaces the requested one."""
        flags = USAGE_FLAGS[usage or self.usage]
        if self.session:
            flags |= KeyAttributeFlags.SESSION
        if local:
            flags |= KeyAttributeFlags.LOCAL
        return flags


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key in the vault, with what a response says about it."""

    entry: Entry
    masked_key: bytes
    bulk_key_id: int | None
    public_key: DerPublicKey | None


def check_bulk_slot(context: Context, key_type: KeyType) -> None:
    """Refuse with ReachedMaxAesBulkKeys a bulk key that no slot is left for."""
    if TYPES[key_type].family is Family.BULK:
        with context.locked() as state:
            state.vault.check_bulk_slot()


def store_key(
    context: Context,
    key: Handle,
    key_type: KeyType,
    flags: KeyAttributeFlags,
    *,
    tag: int | None = None,
    label: bytes = b"",
    variable_bytes: int = 0,
    failure: DdiStatus | None = None,
) -> StoredKey:
    """Mask a scratch key and put it into the vault.

    Args:
        context: the command.
        key: a scratch key; kept from now on.
        key_type: its type.
        flags: the attribute word to store.
        tag: its tag.
        label: its label, which only the masked form carries.
        variable_bytes: length of a variable-length HMAC key.
        failure: a test that the key failed, which comes after the checks of the vault: the key is not stored.

    Raises:
        RefusedError: ReachedMaxAesBulkKeys, KeyTagAlreadyExists, NotEnoughSpace, DefragmentationNeeded, `failure`;
            nothing is left behind then.
    """
    info = TYPES[key_type]
    value_bytes = info.vault_bytes or variable_bytes
    new = NewEntry(
        type=key_type,
        handle=key,
        value_bytes=value_bytes + info.public_bytes,
        flags=flags,
        session=context.session if flags & KeyAttributeFlags.SESSION else None,
        tag=tag,
        label=label,
        bulk=info.family is Family.BULK,
        variable_bytes=variable_bytes,
    )
    if failure is not None:
        _refuse(context, new, failure)
    masked_key = masking.mask(context.store, masking_key(context, flags), key, metadata(new, value_bytes))
    with context.locked() as state:
        entry = state.vault.add(new)
        context.keep(key)
        if info.bulk is not None:
            context.partition.bulk_table.publish(
                bulk_number(context, entry),
                key,
                info.bulk,
                session_id=context.session.id,
                app_id=0,
                session_only=new.session is not None,
            )
    context.undo.append(lambda context: _remove_again(context, entry))
    return StoredKey(entry, masked_key, bulk_key_id(context, entry), public_key(context, entry))


def masking_key(context: Context, flags: KeyAttributeFlags) -> Handle:
    """The key that masks a key with these flags: the session's or the partition's."""
    if flags & KeyAttributeFlags.SESSION:
        return context.session.masking_key
    return context.provisioned.masking_key


def metadata(new: NewEntry, key_length: int) -> MaskedKeyMetadata:
    """Clear part of the masked form of a client's key (spec 05 §16.2)."""
    assert new.type is not None
    return MaskedKeyMetadata(
        svn=CURRENT_SVN,
        key_type=new.type,
        key_attributes=MaskedKeyAttributes.of(new.flags, new.variable_bytes),
        bks2_index=0,
        key_tag=new.tag,
        key_label=new.label,
        key_length=key_length,
    )


def public_key(context: Context, entry: Entry) -> DerPublicKey | None:
    """Public half of an RSA or EC key in wire form; None for other keys."""
    content = entry.content
    if content.type in BY_PRIVATE_TYPE:
        point = Point.from_uncompressed(BY_PRIVATE_TYPE[content.type], context.store.ec_public(content.handle))
        return context.dialect.ec_public_key(point)
    if content.type in TYPES and TYPES[content.type].family is Family.RSA:
        return context.dialect.rsa_public_key(context.store.rsa_public(content.handle))
    return None


def bulk_key_id(context: Context, entry: Entry) -> int | None:
    """What responses call a key on the fast path; None for keys that are not usable there."""
    return None if entry.bulk_slot is None else bulk_number(context, entry)


def bulk_number(context: Context, entry: Entry) -> int:
    """Number under which the fast path knows a bulk key (spec 02 E.1)."""
    if context.profile.bulk_numbers is BulkNumbers.KEY_ID:
        return entry.key_id
    assert entry.bulk_slot is not None
    group, slot = divmod(entry.bulk_slot, BULK_KEYS_PER_TABLE)
    return group << 3 | slot


def _refuse(context: Context, new: NewEntry, failure: DdiStatus) -> NoReturn:
    with context.locked() as state:
        state.vault.remove(state.vault.add(new))
    raise RefusedError(failure)


def _remove_again(context: Context, entry: Entry) -> None:
    with context.partition.lock:
        if context.partition.state.vault.get(entry.key_id) is entry:
            context.partition.remove_key(entry)
