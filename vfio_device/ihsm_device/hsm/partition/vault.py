# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The key vault: tables, key numbers, byte accounting (spec 04 §11, 05 §5.6, firmware's form).

A table has 256 entries and 15,104 bytes in blocks of 8. An entry takes 32 bytes of attributes and its value rounded up
to whole blocks, in one piece; first fit, in the lowest table with room. The values themselves lie in the key store;
what is counted here is what the real part would need. The vault is not synchronised: its partition's lock guards it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ihsm_abi.ddi import DdiStatus, KeyAttributeFlags, KeyType
from ihsm_abi.fault_actions import Resource
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle
from ihsm_device.hsm.partition.published import ANY_SESSION, ExpressKey, Published
from ihsm_device.hsm.partition.session_table import Session
from ihsm_device.hsm.partition.shortage import Shortage

TABLE_ENTRIES: Final = 256
TABLE_BYTES: Final = 15104
BLOCK_BYTES: Final = 8
ATTRIBUTE_BYTES: Final = 32
BULK_KEYS_PER_TABLE: Final = 7
_TABLE_BLOCKS: Final = TABLE_BYTES // BLOCK_BYTES
_ATTRIBUTE_BLOCKS: Final = ATTRIBUTE_BYTES // BLOCK_BYTES
_ALL_FREE: Final = (1 << _TABLE_BLOCKS) - 1


@dataclass(frozen=True, slots=True)
class NewEntry:
    """What is to be stored."""

    type: KeyType | None
    """None for a session object."""
    handle: Handle
    value_bytes: int
    flags: KeyAttributeFlags
    internal: bool = False
    """The device itself is the owner."""
    session: Session | None = None
    """Owner of a session-only key; the session itself for a session object."""
    tag: int | None = None
    label: bytes = b""
    bulk: bool = False
    variable_bytes: int = 0
    """Length of a variable-length HMAC key."""

    @property
    def blocks(self) -> int:
        """Blocks of the table that the entry takes."""
        return _ATTRIBUTE_BLOCKS + -(-self.value_bytes // BLOCK_BYTES)


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A stored key or session object."""

    key_id: int
    content: NewEntry
    first_block: int
    bulk_slot: int | None


Describe = Callable[[NewEntry], ExpressKey | None]
"""What the express lane may do with a key; None: nothing."""


@dataclass(frozen=True, slots=True)
class KeyPublisher:
    """Where a vault publishes its keys, and as what."""

    published: Published
    describe: Describe

    def add(self, entry: "Entry") -> None:
        """The key can be used from now on."""
        content = entry.content
        facts = self.describe(content)
        if facts is not None:
            session_id = ANY_SESSION if content.session is None else content.session.id
            self.published.key(entry.key_id, content.handle, facts, session_id=session_id)

    def remove(self, entry: "Entry") -> None:
        """The express lane answers no command with the key any more."""
        self.published.withdraw_key(entry.key_id)


@dataclass(slots=True)
class _Table:
    index: int
    entries: dict[int, Entry] = field(default_factory=dict)
    free_blocks: int = _ALL_FREE
    """Bit n is set while block n is free."""

    def place(self, blocks: int) -> int | None:
        """Lowest block from which on so many are free."""
        starts = self.free_blocks
        # After the loop bit n is left only if blocks n … n + blocks − 1 are all free.
        covered = 1
        while covered < blocks and starts:
            step = min(covered, blocks - covered)
            starts &= starts >> step
            covered += step
        return (starts & -starts).bit_length() - 1 if starts else None

    def has_blocks(self, blocks: int) -> bool:
        """Whether so many blocks are free, in whatever pieces."""
        return self.free_blocks.bit_count() >= blocks


class Vault:
    """All tables of one partition."""

    def __init__(self, tables: int, shortage: Shortage, publisher: KeyPublisher | None = None) -> None:
        """An empty vault of `tables` tables, which has no room for applications where `shortage` says so."""
        self._publisher = publisher
        self._shortage = shortage
        self._tables = [_Table(index) for index in range(tables)]
        self._tags: dict[int, Entry] = {}
        self._free_bulk_slots = set(range(BULK_KEYS_PER_TABLE * tables))

    def get(self, key_id: int) -> Entry | None:
        """The entry of a key number; None for an empty one and for a table that the function does not own."""
        table, index = divmod(key_id, TABLE_ENTRIES)
        return self._tables[table].entries.get(index) if table < len(self._tables) else None

    def by_tag(self, tag: int) -> Entry | None:
        """The application key that carries a tag."""
        return self._tags.get(tag)

    def check_bulk_slot(self) -> None:
        """Refuse with ReachedMaxAesBulkKeys if every bulk slot is taken."""
        if not self._free_bulk_slots or self._shortage.of(Resource.BULK_KEYS):
            raise RefusedError(DdiStatus.ReachedMaxAesBulkKeys)

    def check_room(self, new: NewEntry) -> None:
        """Refuse with NotEnoughSpace or DefragmentationNeeded an entry that `add` would."""
        self._find_room(new)

    def add(self, new: NewEntry) -> Entry:
        """Store an entry under the lowest free key number of the first table with room.

        Raises:
            RefusedError: ReachedMaxAesBulkKeys, KeyTagAlreadyExists, NotEnoughSpace, DefragmentationNeeded, in this
                order; nothing is stored then.
        """
        if new.bulk:
            self.check_bulk_slot()
        if new.tag is not None and new.tag in self._tags:
            raise RefusedError(DdiStatus.KeyTagAlreadyExists)
        table, first_block = self._find_room(new)
        index = next(index for index in range(TABLE_ENTRIES) if index not in table.entries)
        slot = min(self._free_bulk_slots) if new.bulk else None
        entry = Entry(table.index * TABLE_ENTRIES + index, new, first_block, slot)
        if self._publisher is not None:
            self._publisher.add(entry)
        table.entries[index] = entry
        table.free_blocks &= ~_block_mask(entry)
        if slot is not None:
            self._free_bulk_slots.remove(slot)
        if new.tag is not None:
            self._tags[new.tag] = entry
        return entry

    def remove(self, entry: Entry) -> None:
        """Free an entry's number, blocks, tag and bulk slot."""
        if self._publisher is not None:
            self._publisher.remove(entry)
        table, index = divmod(entry.key_id, TABLE_ENTRIES)
        del self._tables[table].entries[index]
        self._tables[table].free_blocks |= _block_mask(entry)
        if entry.bulk_slot is not None:
            self._free_bulk_slots.add(entry.bulk_slot)
        if entry.content.tag is not None:
            del self._tags[entry.content.tag]

    def of_session(self, session: Session) -> list[Entry]:
        """Session-only keys of a session and its session object, lowest key number first."""
        return [entry for table in self._tables for entry in table.entries.values() if entry.content.session is session]

    def usage(self) -> dict[str, int]:
        """Entries, bytes and bulk slots in use and at most; for the status of the device."""
        used_blocks = sum(_TABLE_BLOCKS - table.free_blocks.bit_count() for table in self._tables)
        slots = BULK_KEYS_PER_TABLE * len(self._tables)
        return {
            "tables": len(self._tables),
            "entries": sum(len(table.entries) for table in self._tables),
            "entries_max": TABLE_ENTRIES * len(self._tables),
            "bytes": used_blocks * BLOCK_BYTES,
            "bytes_max": TABLE_BYTES * len(self._tables),
            "bulk_keys": slots - len(self._free_bulk_slots),
            "bulk_keys_max": slots,
        }

    def _find_room(self, new: NewEntry) -> tuple[_Table, int]:
        if not new.internal and self._shortage.of(Resource.KEYS):
            raise RefusedError(DdiStatus.NotEnoughSpace)
        blocks = new.blocks
        fragmented = False
        for table in self._tables:
            if len(table.entries) == TABLE_ENTRIES or not table.has_blocks(blocks):
                continue
            first_block = table.place(blocks)
            if first_block is not None:
                return table, first_block
            fragmented = True
        raise RefusedError(DdiStatus.DefragmentationNeeded if fragmented else DdiStatus.NotEnoughSpace)


def _block_mask(entry: Entry) -> int:
    return ((1 << entry.content.blocks) - 1) << entry.first_block
