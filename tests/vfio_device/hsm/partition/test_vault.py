# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The vault against a model of it, and its limits (spec 04 §11, 05 §5.6)."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ihsm_abi.ddi import DdiStatus, KeyAttributeFlags, KeyType
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle
from ihsm_device.hsm.partition import BULK_KEYS_PER_TABLE, Entry, NewEntry
from ihsm_device.hsm.partition.shortage import Shortage
from ihsm_device.hsm.partition.vault import ATTRIBUTE_BYTES, BLOCK_BYTES, TABLE_BYTES, TABLE_ENTRIES, Vault
from ihsm_device.hsm.wire import TYPES

TABLES = 2


def new(value_bytes: int, tag: int | None = None, *, bulk: bool = False) -> NewEntry:
    return NewEntry(KeyType.Aes256, Handle(1), value_bytes, KeyAttributeFlags.LOCAL, tag=tag, bulk=bulk)


def status_of(vault: Vault, entry: NewEntry) -> DdiStatus:
    with pytest.raises(RefusedError) as caught:
        vault.add(entry)
    return caught.value.status


class VaultMachine(RuleBasedStateMachine):
    """Random additions and removals, held against plain lists of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.vault = Vault(TABLES, Shortage())
        self.entries: list[Entry] = []
        self.maps = [bytearray(TABLE_BYTES // BLOCK_BYTES) for _ in range(TABLES)]

    def _expected(self, entry: NewEntry) -> tuple[int, int] | DdiStatus:
        if entry.bulk and sum(one.content.bulk for one in self.entries) == TABLES * BULK_KEYS_PER_TABLE:
            return DdiStatus.ReachedMaxAesBulkKeys
        if entry.tag is not None and any(one.content.tag == entry.tag for one in self.entries):
            return DdiStatus.KeyTagAlreadyExists
        blocks = (ATTRIBUTE_BYTES + -(-entry.value_bytes // BLOCK_BYTES) * BLOCK_BYTES) // BLOCK_BYTES
        fragmented = False
        for table, used in enumerate(self.maps):
            full = sum(one.key_id >> 8 == table for one in self.entries) == TABLE_ENTRIES
            if full or used.count(0) < blocks:
                continue
            place = bytes(used).find(bytes(blocks))
            if place >= 0:
                return table, place
            fragmented = True
        return DdiStatus.DefragmentationNeeded if fragmented else DdiStatus.NotEnoughSpace

    @rule(
        size=st.sampled_from([0, 2, 16, 32, 48, 88, 516, 1284, 2564]),
        tag=st.none() | st.integers(1, 5),
        bulk=st.booleans(),
        times=st.integers(1, 12),
    )
    def add(self, size: int, tag: int | None, bulk: bool, times: int) -> None:
        for _ in range(times):
            entry = new(size, tag, bulk=bulk)
            expected = self._expected(entry)
            if isinstance(expected, DdiStatus):
                assert status_of(self.vault, entry) == expected
                continue
            table, place = expected
            taken = {one.key_id & 0xFF for one in self.entries if one.key_id >> 8 == table}
            added = self.vault.add(entry)
            assert added.key_id == table << 8 | min(set(range(TABLE_ENTRIES)) - taken)
            assert added.first_block == place
            self.maps[table][place : place + entry.blocks] = b"\1" * entry.blocks
            self.entries.append(added)

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = self.entries.pop(data.draw(st.integers(0, len(self.entries) - 1)))
        self.vault.remove(gone)
        blocks = gone.content.blocks
        self.maps[gone.key_id >> 8][gone.first_block : gone.first_block + blocks] = bytes(blocks)
        assert self.vault.get(gone.key_id) is None

    @invariant()
    def agrees(self) -> None:
        usage = self.vault.usage()
        assert usage["entries"] == len(self.entries)
        assert usage["bytes"] == BLOCK_BYTES * sum(used.count(1) for used in self.maps)
        assert usage["bulk_keys"] == sum(one.content.bulk for one in self.entries)
        for entry in self.entries:
            assert self.vault.get(entry.key_id) is entry
            if entry.content.tag is not None:
                assert self.vault.by_tag(entry.content.tag) is entry


TestVault = VaultMachine.TestCase


def test_capacities() -> None:
    """Sizes of 05 §5.6: entries of 32 bytes of attributes and the value in blocks of 8, in 15,104 bytes."""
    for key_type, count in ((KeyType.Aes256, 236), (KeyType.Rsa2kPrivate, 27), (KeyType.Rsa4kPrivateCrt, 5)):
        vault = Vault(1, Shortage())
        value = TYPES[key_type].vault_bytes
        for _ in range(count):
            vault.add(new(value))
        assert status_of(vault, new(value)) == DdiStatus.NotEnoughSpace


def test_the_entry_count_is_a_limit_of_its_own() -> None:
    vault = Vault(1, Shortage())
    for index in range(TABLE_ENTRIES):
        assert vault.add(new(2)).key_id == index
    assert vault.usage()["bytes"] < TABLE_BYTES
    assert status_of(vault, new(0)) == DdiStatus.NotEnoughSpace


def test_tables_that_are_not_owned() -> None:
    vault = Vault(2, Shortage())
    for key_id in (0, 0x1FF, 0x200, 0x300, 0xFFFF):
        assert vault.get(key_id) is None


def test_bulk_slots_are_used_again() -> None:
    vault = Vault(1, Shortage())
    entries = [vault.add(new(2, bulk=True)) for _ in range(BULK_KEYS_PER_TABLE)]
    assert [entry.bulk_slot for entry in entries] == list(range(BULK_KEYS_PER_TABLE))
    vault.remove(entries[3])
    assert vault.add(new(2, bulk=True)).bulk_slot == 3
