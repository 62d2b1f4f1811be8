# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Publication of fast-path keys, as C workers see it through the same functions."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ihsm_device._native import ffi, lib
from ihsm_device.hsm.keystore import (
    ArgumentError,
    BulkTable,
    BulkType,
    Handle,
    KeySizeError,
    KeyStore,
    Owner,
    Scope,
    StaleHandleError,
)
from support.waiting import ended, until

OWNER = Owner(0, Scope.PARTITION)
KEY, OTHER = bytes(range(32)), bytes(range(32, 64))


@pytest.fixture
def table(store: KeyStore) -> Iterator[BulkTable]:
    table = store.bulk_table(0)
    yield table
    table.close()


def publish(store: KeyStore, table: BulkTable, key_id: int, value: bytes, kind: BulkType, **tags: Any) -> Handle:
    handle = store.import_secret(value, OWNER)
    table.publish(key_id, handle, kind, **{"session_id": 0, "app_id": 0, "session_only": False, **tags})
    return handle


class Reader:
    """A worker's view of one key."""

    def __init__(self, table: BulkTable, key_id: int) -> None:
        self.key = lib.ks_bulk_acquire(table.native, key_id)
        assert self.key != ffi.NULL

    def is_like(self, other: Reader) -> bool:
        return bool(lib.ks_bulk_equal(self.key, other.key))

    def release(self) -> None:
        lib.ks_bulk_release(self.key)


def test_info_and_lookup(store: KeyStore, table: BulkTable) -> None:
    publish(store, table, 0x0205, KEY, BulkType.GCM_APPROVED, session_id=7, app_id=3, session_only=True)
    reader = Reader(table, 0x0205)
    info = lib.ks_bulk_info(reader.key)
    assert (info.session_id, info.app_id, info.type, info.session_only) == (7, 3, 1, True)
    reader.release()
    for key_id in (0x0204, 0x0206, 0x0005, 0xFFFF, 0x10205, 0xFFFFFFFF):
        assert lib.ks_bulk_acquire(table.native, key_id) == ffi.NULL
    assert store.statistics().published == 1
    assert table.withdraw(0x0205)
    assert not table.withdraw(0x0205)
    assert not table.withdraw(0x10205)
    assert lib.ks_bulk_acquire(table.native, 0x0205) == ffi.NULL


def test_what_cannot_be_published(store: KeyStore, table: BulkTable) -> None:
    handle = publish(store, table, 1, KEY, BulkType.XTS)
    tags = {"session_id": 0, "app_id": 0, "session_only": False}
    other = store.import_secret(OTHER, OWNER)
    with pytest.raises(ArgumentError):
        table.publish(1, other, BulkType.XTS, **tags)
    with pytest.raises(ArgumentError):
        table.publish(2, handle, BulkType.XTS, **tags)
    for key_id in (0x10000, 0xFFFFFFFF):
        with pytest.raises(ArgumentError):
            table.publish(key_id, other, BulkType.XTS, **tags)
    for changes in ({"session_id": 0x10000}, {"app_id": 0x100}):
        with pytest.raises(ArgumentError):
            table.publish(3, other, BulkType.XTS, **{**tags, **changes})
    with pytest.raises(KeySizeError):
        table.publish(3, store.generate_secret(16, OWNER), BulkType.XTS, **tags)
    store.destroy(other)
    with pytest.raises(StaleHandleError):
        table.publish(3, other, BulkType.XTS, **tags)
    assert table.withdraw(1)
    table.publish(2, handle, BulkType.XTS, **tags)


def test_equal_bytes_in_different_slots(store: KeyStore, table: BulkTable) -> None:
    for key_id, value in ((1, KEY), (2, OTHER), (3, KEY)):
        publish(store, table, key_id, value, BulkType.XTS)
    readers = [Reader(table, key_id) for key_id in (1, 2, 3)]
    assert readers[0].is_like(readers[2])
    assert not readers[0].is_like(readers[1])
    for reader in readers:
        reader.release()


def test_a_reader_outlives_withdrawal(store: KeyStore, table: BulkTable) -> None:
    publish(store, table, 6, KEY, BulkType.GCM_APPROVED)
    same = Reader(table, 6)
    handle = publish(store, table, 5, KEY, BulkType.GCM_APPROVED)
    reader = Reader(table, 5)
    assert not lib.ks_bulk_deleted(reader.key)
    store.destroy(handle)
    assert lib.ks_bulk_deleted(reader.key)
    assert lib.ks_bulk_acquire(table.native, 5) == ffi.NULL
    assert reader.is_like(same)
    before = store.statistics()
    reader.release()
    after = store.statistics()
    assert after.bytes_in_use < before.bytes_in_use
    assert after.published == before.published == 1
    publish(store, table, 5, OTHER, BulkType.GCM_APPROVED)
    again = Reader(table, 5)
    assert not again.is_like(same)
    again.release()
    same.release()


def test_a_number_is_free_while_readers_of_its_last_keys_are_left(store: KeyStore, table: BulkTable) -> None:
    """A command may run for seconds: whoever makes a key meanwhile waits for nobody, and each reader keeps its own."""
    publish(store, table, 6, KEY, BulkType.XTS)
    publish(store, table, 7, OTHER, BulkType.XTS)
    key, other = Reader(table, 6), Reader(table, 7)
    readers = []
    for value in (KEY, OTHER, KEY):
        publish(store, table, 5, value, BulkType.XTS)
        readers.append(Reader(table, 5))
        assert table.withdraw(5)
        assert lib.ks_bulk_acquire(table.native, 5) == ffi.NULL
    publish(store, table, 5, OTHER, BulkType.XTS)
    last = Reader(table, 5)
    assert [lib.ks_bulk_deleted(reader.key) for reader in (*readers, last)] == [True, True, True, False]
    assert [reader.is_like(key) for reader in (*readers, last)] == [True, False, True, False]
    assert last.is_like(other)
    before = store.statistics().bytes_in_use
    for reader in readers:
        reader.release()
    assert store.statistics().bytes_in_use < before
    assert last.is_like(other)
    for reader in (last, key, other):
        reader.release()


def test_groups_and_closing_withdraw(store: KeyStore) -> None:
    first, second = store.bulk_table(0), store.bulk_table(1)
    idle = store.statistics().bytes_in_use
    for number in range(14):
        key = store.generate_secret(32, Owner(0, Scope.SESSION, number % 2))
        first.publish(number, key, BulkType.XTS, session_id=number % 2, app_id=0, session_only=True)
    kept = store.generate_secret(32, Owner(1, Scope.PARTITION))
    second.publish(0, kept, BulkType.XTS, session_id=0, app_id=0, session_only=False)
    assert store.destroy_group(function=0, session=1) == 7
    assert store.statistics().published == 8
    first.close()
    assert store.statistics().published == 1
    second.close()
    assert store.statistics().published == 0
    assert store.size(kept) == 32
    store.destroy_group()
    assert store.statistics().bytes_in_use == idle


EXCHANGES = 1500
"""How often the key is exchanged at least; and on until a reader has got one, however late its thread begins."""


def test_readers_and_writers_at_once(store: KeyStore, table: BulkTable) -> None:
    """Whoever gets a key computes with that key, never with a half-wiped or exchanged one."""
    values = {0: KEY, 1: OTHER}
    for number, value in values.items():
        publish(store, table, number, value, BulkType.GCM_UNAPPROVED)
    references = [Reader(table, number) for number in values]
    stop = threading.Event()
    failures: list[str] = []
    counts = [0, 0]

    def read() -> None:
        while not stop.is_set():
            key = lib.ks_bulk_acquire(table.native, 77)
            counts[key != ffi.NULL] += 1
            if key == ffi.NULL:
                continue
            if sum(lib.ks_bulk_equal(key, reference.key) for reference in references) != 1:
                failures.append("neither key")
            lib.ks_bulk_release(key)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    exchanges = itertools.count()

    def exchange() -> bool:
        number = next(exchanges)
        handle = publish(store, table, 77, values[number % 2], BulkType.GCM_UNAPPROVED)
        if number % 3 == 0:
            table.withdraw(77)
        store.destroy(handle)
        return number >= EXCHANGES and counts[True] > 0

    until(exchange, "a reader that finds a key", every_s=0)
    stop.set()
    ended(*threads)
    for reference in references:
        reference.release()
    store.destroy_group(function=0)
    assert not failures
    statistics = store.statistics()
    assert (statistics.published, statistics.keys, statistics.keys_dying) == (0, 0, 0)
