# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fast-path keys as C workers see them, through the same functions; pyca/cryptography judges."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

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
from support import cavp

OWNER = Owner(0, Scope.PARTITION)
KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
IV = b"\x03" * 12


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

    def __init__(self, table: BulkTable, key_id: int, worker: int = 0) -> None:
        self.key, self.worker = lib.ks_bulk_acquire(table.native, key_id), worker
        assert self.key != ffi.NULL

    def gcm(self, encrypt: bool, iv: bytes, aad: list[bytes], text: list[bytes]) -> bytes:
        assert lib.ks_gcm_start(self.key, self.worker, encrypt, iv)
        for piece in aad:
            assert lib.ks_gcm_aad(self.key, self.worker, piece, len(piece))
        out = b""
        for piece in text:
            buffer = ffi.new("uint8_t[]", max(1, len(piece)))
            assert lib.ks_gcm_update(self.key, self.worker, piece, buffer, len(piece))
            out += bytes(ffi.buffer(buffer, len(piece)))
        return out

    def tag(self) -> bytes:
        out = ffi.new("uint8_t[16]")
        assert lib.ks_gcm_tag(self.key, self.worker, out)
        return bytes(ffi.buffer(out))

    def matches(self, tag: bytes) -> bool:
        return bool(lib.ks_gcm_matches(self.key, self.worker, tag))

    def exchanged(self, a: int, b: int, tag: bytes) -> bytes:
        out = ffi.new("uint8_t[16]", tag)
        lib.ks_gcm_exchange_aad_length(self.key, a, b, out)
        return bytes(ffi.buffer(out))

    def xts(self, tweak_key: Reader, encrypt: bool, tweak: bytes, data: bytes) -> bytes:
        out = ffi.new("uint8_t[]", len(data))
        assert lib.ks_xts_unit(self.key, tweak_key.key, encrypt, tweak, data, out, len(data))
        return bytes(ffi.buffer(out))

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


def test_gcm_cavp(store: KeyStore, table: BulkTable) -> None:
    verdicts = {True: 0, False: 0}
    for path in ("gcmEncryptExtIV256.rsp", "gcmDecrypt256.rsp"):
        for _, case in cavp.cases(f"ciphers/AES/GCM/{path}"):
            if "Key" not in case or len(case["IV"]) != 24 or len(case["Tag"]) != 32:
                continue
            publish(store, table, 1, bytes.fromhex(case["Key"]), BulkType.GCM_UNAPPROVED)
            reader = Reader(table, 1)
            iv, aad, cipher, tag = (bytes.fromhex(case[name]) for name in ("IV", "AAD", "CT", "Tag"))
            if path.startswith("gcmEncrypt"):
                assert reader.gcm(True, iv, [aad], [bytes.fromhex(case["PT"])]) == cipher
                assert reader.tag() == tag
            else:
                plain = reader.gcm(False, iv, [aad], [cipher])
                valid = reader.matches(tag)
                assert valid == ("PT" in case)
                assert not valid or plain == bytes.fromhex(case["PT"])
                verdicts[valid] += 1
            reader.release()
            store.destroy_group(function=0)
    assert min(verdicts.values()) > 20


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    points = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(
    aad=st.binary(max_size=300),
    text=st.binary(max_size=600),
    iv=st.binary(min_size=12, max_size=12),
    cuts=st.lists(st.integers(0, 1000), max_size=4),
)
@settings(max_examples=100)
def test_gcm_in_pieces_and_with_padded_aad(aad: bytes, text: bytes, iv: bytes, cuts: list[int]) -> None:
    store = KeyStore()
    table = store.bulk_table(0)
    try:
        publish(store, table, 9, KEY, BulkType.GCM_APPROVED)
        reader = Reader(table, 9, worker=15)
        expected = AESGCM(KEY).encrypt(iv, text, aad)
        cipher, tag = expected[:-16], expected[-16:]
        assert reader.gcm(True, iv, cut(aad, cuts), cut(text, cuts)) == cipher
        assert reader.tag() == tag
        assert reader.gcm(False, iv, [aad], cut(cipher, cuts)) == text
        assert reader.matches(tag)
        # As the host library pads it: zeros behind, and 16 zeros in front if that costs no further block of 32.
        front = 16 if 1 <= len(aad) % 32 <= 16 else 0
        padded = (bytes(front) + aad).ljust(-(-len(aad) // 32) * 32, b"\0")
        assert reader.gcm(True, iv, [padded], [text]) == cipher
        assert reader.exchanged(len(padded), len(aad), reader.tag()) == tag
        reader.gcm(False, iv, [padded], [cipher])
        assert reader.matches(reader.exchanged(len(aad), len(padded), tag))
        reader.gcm(False, iv, [aad], [cipher])
        assert not reader.matches(tag[:-1] + bytes([tag[-1] ^ 1]))
        reader.release()
    finally:
        table.close()
        store.close()


def test_xts_cavp(store: KeyStore, table: BulkTable) -> None:
    ran = 0
    for section, case in cavp.cases("ciphers/AES/XTS/tweak-128hexstr/XTSGenAES256.rsp"):
        if "Key" not in case or int(case["DataUnitLen"]) % 128:
            continue
        key = bytes.fromhex(case["Key"])
        publish(store, table, 1, key[:32], BulkType.XTS)
        publish(store, table, 2, key[32:], BulkType.XTS)
        data_key, tweak_key = Reader(table, 1), Reader(table, 2)
        plain, cipher = bytes.fromhex(case["PT"]), bytes.fromhex(case["CT"])
        encrypt = section == "ENCRYPT"
        out = data_key.xts(tweak_key, encrypt, bytes.fromhex(case["i"]), plain if encrypt else cipher)
        assert out == (cipher if encrypt else plain)
        data_key.release()
        tweak_key.release()
        store.destroy_group(function=0)
        ran += 1
    assert ran > 100


@given(blocks=st.integers(1, 300), at=st.integers(0, 300), tweak=st.binary(min_size=16, max_size=16))
@settings(max_examples=60)
def test_xts_taken_up_again(blocks: int, at: int, tweak: bytes) -> None:
    store = KeyStore()
    table = store.bulk_table(0)
    try:
        publish(store, table, 1, KEY, BulkType.XTS)
        publish(store, table, 2, OTHER, BulkType.XTS)
        data_key, tweak_key = Reader(table, 1), Reader(table, 2)
        plain = bytes(i * 31 & 0xFF for i in range(16 * blocks))
        expected = Cipher(algorithms.AES(KEY + OTHER), modes.XTS(tweak)).encryptor().update(plain)
        assert data_key.xts(tweak_key, True, tweak, plain) == expected
        assert data_key.xts(tweak_key, False, tweak, expected) == plain
        at %= blocks
        following = ffi.new("uint8_t[16]")
        lib.ks_xts_advance(tweak_key.key, tweak, at, following)
        assert data_key.xts(tweak_key, True, bytes(ffi.buffer(following)), plain[16 * at :]) == expected[16 * at :]
        data_key.release()
        tweak_key.release()
    finally:
        table.close()
        store.close()


def test_xts_lengths_and_equal_keys(store: KeyStore, table: BulkTable) -> None:
    for key_id, value in ((1, KEY), (2, OTHER), (3, KEY)):
        publish(store, table, key_id, value, BulkType.XTS)
    readers = [Reader(table, key_id) for key_id in (1, 2, 3)]
    out = ffi.new("uint8_t[]", 64)
    for size in (0, 1, 15, 17, 2**24 + 16):
        assert not lib.ks_xts_unit(readers[0].key, readers[1].key, True, bytes(16), bytes(64), out, size)
    assert lib.ks_bulk_equal(readers[0].key, readers[2].key)
    assert not lib.ks_bulk_equal(readers[0].key, readers[1].key)
    for reader in readers:
        reader.release()


def test_a_reader_outlives_withdrawal(store: KeyStore, table: BulkTable) -> None:
    handle = publish(store, table, 5, KEY, BulkType.GCM_APPROVED)
    idle = store.statistics().bytes_in_use
    reader = Reader(table, 5)
    assert not lib.ks_bulk_deleted(reader.key)
    store.destroy(handle)
    assert lib.ks_bulk_deleted(reader.key)
    assert lib.ks_bulk_acquire(table.native, 5) == ffi.NULL
    assert reader.gcm(True, IV, [], [b"text"]) == AESGCM(KEY).encrypt(IV, b"text", None)[:4]
    before = store.statistics().bytes_in_use
    reader.release()
    after = store.statistics()
    assert after.bytes_in_use < before
    assert after.bytes_in_use < idle
    assert after.published == 0
    publish(store, table, 5, OTHER, BulkType.GCM_APPROVED)
    again = Reader(table, 5)
    assert again.gcm(True, IV, [], [b"text"]) == AESGCM(OTHER).encrypt(IV, b"text", None)[:4]
    again.release()


def test_a_number_is_free_when_the_last_reader_leaves(store: KeyStore, table: BulkTable) -> None:
    publish(store, table, 5, KEY, BulkType.XTS)
    reader = Reader(table, 5)
    assert table.withdraw(5)
    done = threading.Event()

    def publish_again() -> None:
        publish(store, table, 5, OTHER, BulkType.XTS)
        done.set()

    thread = threading.Thread(target=publish_again)
    thread.start()
    assert not done.wait(0.1)
    assert lib.ks_bulk_deleted(reader.key)
    reader.release()
    thread.join(10)
    assert done.is_set()


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


def test_readers_and_writers_at_once(store: KeyStore, table: BulkTable) -> None:
    """Whoever gets a key computes with that key, never with a half-wiped or exchanged one."""
    values = {0: KEY, 1: OTHER}
    expected = {AESGCM(value).encrypt(IV, b"0123456789abcdef", None) for value in values.values()}
    stop = threading.Event()
    failures: list[str] = []
    counts = [0, 0]

    def read(worker: int) -> None:
        while not stop.is_set():
            key = lib.ks_bulk_acquire(table.native, 77)
            counts[key != ffi.NULL] += 1
            if key == ffi.NULL:
                continue
            reader = Reader.__new__(Reader)
            reader.key, reader.worker = key, worker
            out = reader.gcm(True, IV, [], [b"0123456789abcdef"]) + reader.tag()
            if out not in expected:
                failures.append(out.hex())
            reader.release()

    threads = [threading.Thread(target=read, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for number in range(1500):
        handle = publish(store, table, 77, values[number % 2], BulkType.GCM_UNAPPROVED)
        if number % 3:
            store.destroy(handle)
        else:
            table.withdraw(77)
            store.destroy(handle)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert counts[True] > 0
    statistics = store.statistics()
    assert (statistics.published, statistics.keys, statistics.keys_dying) == (0, 0, 0)
