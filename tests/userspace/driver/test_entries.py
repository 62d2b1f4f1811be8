# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Entries that the queues write, against the worked examples of the interface (spec 02 H), addresses apart."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from ihsm.bus import DmaArena
from ihsm.driver.aes_batch import gcm_entries, xts_entries
from ihsm.driver.aes_commands import draw_iv, pad_aad
from ihsm.driver.aes_queue import AesQueue
from ihsm.driver.completion import CompletionLine
from ihsm.driver.hsm_queue import HsmQueue
from ihsm.errors import ArgumentError, ArgumentTypeError, SessionClosedError
from ihsm.fast_path import FastPathSession
from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE
from ihsm_abi.aes_queue import AES_CQE, GCM_SQE, XTS_SQE
from ihsm_abi.entries import RecordCodec
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE, ControlKind
from support.ring_device import IOVA, Bells, RingDevice
from support.waiting import HANG_S

SESSION = FastPathSession(3, 0)

H4 = """00000000 2c000200 03000000 00000000 00000000 00000000 40000000 00100000
02000000 10000000 00000030 40000000 00300000 02000000 10000000 00000030
01000000 11000000 0b000000 00000000 00000000 00000000 00000000 00000000
00000000 00000000 20000000 05050000 00700000 02000000 00700000 02000000"""
H7 = """00000000 2d000500 03000000 00000000 00000000 00000000 40000000 00100000
02000000 10000000 00000030 40000000 00300000 02000000 10000000 00000030
01000000 11000000 14000000 2250364a b98d4e4a 2bdea257 e102cd5f 10111213
14151617 18191a1b 20000000 05050000 00700000 02000000 00700000 02000000"""
H9 = """00000000 2c410800 03000000 00000000 00000000 00000000 00020000 00100000
02000000 10000000 00000030 00020000 00300000 02000000 10000000 00000030
01000000 13000000 14000000 05000000 00000000 00000000 00000000 00000000
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000"""
H10 = """00000000 2c000900 03000000 00000000 00000000 00000000 00000000 00000000
00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000
01000000 12000000 00000000 00000000 00000000 00000000 00000000 03030303
03030303 03030303 00000000 05050000 00700000 02000000 00700000 02000000"""
H1 = """00000500 a2010000 00604523 01000000 00000000 00000000 00200000 00004623
01000000 00104623 01000000 01000000 00000000 00000000 00000000 00000000"""
H2 = """00000600 58000000 00604523 01000000 00000000 00000000 00200000 00004623
01000000 00104623 01000000 07000000 03000000 00000000 00000000 00000000"""
H3 = """01000800 00000000 00000000 00000000 00000000 00000000 00000000 00000000
00000000 00000000 00000000 06000000 03000000 00000000 00000000 00000000"""

HSM_ADDRESSES = ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2")


@pytest.fixture
def arena() -> Iterator[DmaArena]:
    with DmaArena(mmap.mmap(-1, 4 << 20), IOVA, lambda: None) as arena:
        yield arena


@pytest.fixture
def aes(arena: DmaArena) -> tuple[AesQueue, RingDevice]:
    bells: Any = Bells()
    queue = AesQueue(256, 8, arena, bells, CompletionLine(None, 0, lambda: None))
    queue.open()
    return queue, RingDevice(queue, arena, bells)


@pytest.fixture
def hsm(arena: DmaArena) -> tuple[HsmQueue, RingDevice]:
    bells: Any = Bells()
    queue = HsmQueue(1, 8, arena, bells, CompletionLine(None, 0, lambda: None))
    queue.open()
    return queue, RingDevice(queue, arena, bells)


def sent(device: RingDevice, dtype: np.dtype[np.void] | None = None) -> Any:
    device.fetch()
    raw = device.pending[-1].tobytes()
    return np.frombuffer(raw, dtype or device.ring.sqe).copy()[0]


def assert_same_but_addresses(entry: Any, example: str, dtype: np.dtype[np.void], addresses: tuple[str, ...]) -> None:
    """All fields equal, and an address is 0 exactly where the example's is."""
    expected = np.frombuffer(bytes.fromhex(example), dtype)[0]
    for name in dtype.names or ():
        ours, theirs = entry[name], expected[name]
        if name in ("src", "dst"):
            # The example has a list of one block; a contiguous transfer of ours has the block itself.
            length = int(expected[f"{name}_len"])
            assert (int(ours["len"]), int(ours["type"])) == (length, 0), name
            assert bool(ours["addr"]) == bool(theirs["addr"]), name
        elif name in addresses:
            assert bool(ours) == bool(theirs), name
        elif name not in ("cid", "cmd_id"):
            assert np.array_equal(ours, theirs), name


TAILS = ("tail_src_addr", "tail_dst_addr")


def test_gcm_with_padded_aad_and_tail(aes: tuple[AesQueue, RingDevice], arena: DmaArena) -> None:
    queue, device = aes
    text = bytes(range(0x40, 0x65))
    queue.submit_gcm(SESSION, 0x11, text, decrypt=False, iv=bytes(12), aad=b"\xab" * 11, timeout_s=HANG_S)
    entry = sent(device)
    assert_same_but_addresses(entry, H4, GCM_SQE, TAILS)
    assert at(arena, int(entry["src"]["addr"]), 64) == bytes(16) + b"\xab" * 11 + bytes(5) + text[:32]
    assert at(arena, int(entry["tail_src_addr"]), 5) == text[32:]


def test_gcm_decrypt_carries_iv_and_tag(aes: tuple[AesQueue, RingDevice]) -> None:
    queue, device = aes
    tag, iv = bytes.fromhex("2250364ab98d4e4a2bdea257e102cd5f"), bytes(range(0x10, 0x1C))
    queue.submit_gcm(SESSION, 0x11, bytes(37), decrypt=True, iv=iv, tag=tag, aad=bytes(20), timeout_s=HANG_S)
    assert_same_but_addresses(sent(device), H7, GCM_SQE, TAILS)


def test_short_text_travels_in_the_tail_alone(aes: tuple[AesQueue, RingDevice]) -> None:
    queue, device = aes
    queue.submit_gcm(SESSION, 0x12, b"@ABCD", decrypt=False, iv=b"\3" * 12, timeout_s=HANG_S)
    assert_same_but_addresses(sent(device), H10, GCM_SQE, TAILS)


def test_xts_with_data_units(aes: tuple[AesQueue, RingDevice]) -> None:
    queue, device = aes
    tweak = (5).to_bytes(16, "little")
    queue.submit_xts(SESSION, (0x13, 0x14), tweak, bytes(512), decrypt=False, data_unit_bytes=512, timeout_s=HANG_S)
    assert_same_but_addresses(sent(device, XTS_SQE), H9, XTS_SQE, ())


def test_batches_write_the_same_entries(aes: tuple[AesQueue, RingDevice], arena: DmaArena) -> None:
    queue, device = aes
    buffer = arena.allocate(4096)
    places = np.array([buffer.iova, buffer.iova + 1024], np.uint64)
    ivs = np.zeros((2, 12), np.uint8)
    ivs[0, 0] = 1  # an IV serves one encryption; that of the example is the last one's
    queue.submit(gcm_entries(SESSION, 0x11, places, places, 37, decrypt=False, aad_bytes=11, ivs=ivs), HANG_S)
    assert_same_but_addresses(sent(device), H4, GCM_SQE, TAILS)
    assert int(device.pending[1]["tail_src_addr"]) == buffer.iova + 1024 + 64
    tweak = np.frombuffer((5).to_bytes(16, "little"), np.uint8)
    entries = xts_entries(SESSION, (0x13, 0x14), places, places, 512, tweak, decrypt=False, data_unit_bytes=512)
    queue.submit(entries, HANG_S)
    assert_same_but_addresses(sent(device, XTS_SQE), H9, XTS_SQE, ())


def test_messages(hsm: tuple[HsmQueue, RingDevice], arena: DmaArena) -> None:
    queue, device = hsm
    message = bytes(range(256)) + bytes(418 - 256)
    queue.submit_message(message, ControlKind.OPEN, None, timeout_s=HANG_S)
    entry = sent(device)
    assert_same_but_addresses(entry, H1, HSM_SQE, HSM_ADDRESSES)
    assert at(arena, int(entry["src_prp1"]), 418) == message
    assert int(entry["dst_prp2"]) == int(entry["dst_prp1"]) + 4096
    queue.submit_message(bytes(88), ControlKind.IN_SESSION, 3, timeout_s=HANG_S)
    assert_same_but_addresses(sent(device), H2, HSM_SQE, HSM_ADDRESSES)
    queue.submit_flush(3, timeout_s=HANG_S)
    assert_same_but_addresses(sent(device), H3, HSM_SQE, HSM_ADDRESSES)


def intervals(entry: Any, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """Memory that an AES entry names, as (start, end)."""
    found = [(int(entry[name]["addr"]), int(entry[f"{name}_len"])) for name in ("src", "dst")]
    found += [(int(entry[f"{name}_addr"]), int(entry[f"{name}_len"])) for name in names]
    return [(start, start + size) for start, size in found if size]


def disjoint(parts: list[tuple[int, int]]) -> bool:
    ordered = sorted(parts)
    return all(end <= start for (_, end), (start, _) in pairwise(ordered))


@pytest.mark.parametrize("size", [1, 16, 511, 512, 513, 1023, 1024, 1025, 5000])
def test_outstanding_aes_commands_share_no_memory(aes: tuple[AesQueue, RingDevice], arena: DmaArena, size: int) -> None:
    """But that the source of a larger command is its destination."""
    queue, device = aes
    for number in range(7):
        queue.submit_gcm(SESSION, 1, bytes([number]) * size, decrypt=False, iv=bytes(12), timeout_s=HANG_S)
    assert device.fetch() == 7
    parts = [part for entry in device.pending for part in intervals(entry, ("tail_src", "tail_dst"))]
    rings = [(queue.sq_iova, queue.sq_iova + 8 * 128), (queue.cq_iova, queue.cq_iova + 8 * 64)]
    assert len(set(parts)) == len(parts) // (1 if size <= 512 else 2)
    assert disjoint([*set(parts), *rings])
    for number, entry in enumerate(device.pending):
        text = b"".join(at(arena, start, end - start) for start, end in intervals(entry, ("tail_src", "tail_dst"))[::2])
        assert text == bytes([number]) * size


def test_outstanding_messages_share_no_memory(hsm: tuple[HsmQueue, RingDevice]) -> None:
    queue, device = hsm
    for number in range(7):
        queue.submit_message(bytes([number]) * 8192, ControlKind.NONE, None, timeout_s=HANG_S)
    assert device.fetch() == 7
    pages = [(int(entry[name]), int(entry[name]) + 4096) for entry in device.pending for name in HSM_ADDRESSES]
    rings = [(queue.sq_iova, queue.sq_iova + 8 * 64), (queue.cq_iova, queue.cq_iova + 8 * 16)]
    assert len(pages) == 28
    assert disjoint(pages + rings)


def test_impossible_messages_are_refused(hsm: tuple[HsmQueue, RingDevice]) -> None:
    queue, _ = hsm
    with pytest.raises(ValueError, match="8193"):
        queue.submit_message(bytes(8193), ControlKind.NONE, None, timeout_s=HANG_S)
    with pytest.raises(ValueError, match="8193"):
        queue.submit_message(b"x", ControlKind.NONE, None, timeout_s=HANG_S, response_bytes=8193)


def test_impossible_aes_parameters_are_refused(aes: tuple[AesQueue, RingDevice]) -> None:
    queue, _ = aes
    for iv in (b"", bytes(11), bytes(13)):
        with pytest.raises(ArgumentError, match=f"AES-GCM encryption: IV: {len(iv)} bytes, must be 12"):
            queue.gcm_encrypt(SESSION, 1, b"text", iv=iv, timeout_s=HANG_S)
    with pytest.raises(ArgumentError, match="AES-GCM decryption: tag: 15 bytes"):
        queue.submit_gcm(SESSION, 1, b"", decrypt=True, iv=bytes(12), tag=bytes(15), timeout_s=HANG_S)
    with pytest.raises(ArgumentTypeError, match="AES-GCM decryption: tag: NoneType"):
        queue.submit_gcm(SESSION, 1, b"", decrypt=True, iv=bytes(12), timeout_s=HANG_S)
    with pytest.raises(ArgumentError, match="AES-GCM encryption: tag: only a decryption"):
        queue.submit_gcm(SESSION, 1, b"", decrypt=False, iv=bytes(12), tag=bytes(16), timeout_s=HANG_S)
    with pytest.raises(ArgumentError, match="key_id: 4294967296"):
        queue.gcm_encrypt(SESSION, 1 << 32, b"text", timeout_s=HANG_S)
    with pytest.raises(ArgumentError, match="AES-XTS encryption: tweak: 15 bytes"):
        queue.submit_xts(SESSION, (1, 2), bytes(15), bytes(16), decrypt=False, timeout_s=HANG_S)
    with pytest.raises(ValueError, match="data_unit_bytes: 1024"):
        queue.submit_xts(SESSION, (1, 2), bytes(16), bytes(16), decrypt=False, data_unit_bytes=1024, timeout_s=HANG_S)


def test_an_iv_that_is_not_given_is_drawn(aes: tuple[AesQueue, RingDevice]) -> None:
    queue, device = aes
    places = np.zeros(200, np.uint64)
    drawn = gcm_entries(SESSION, 1, places, places, 16, decrypt=False)["iv"]
    for _ in range(5):
        queue.submit_gcm(SESSION, 1, b"text", decrypt=False, iv=draw_iv(), timeout_s=HANG_S)
    assert device.fetch() == 5
    ivs = {entry["iv"].tobytes() for entry in device.pending} | {iv.tobytes() for iv in drawn}
    assert len(ivs) == 205
    assert bytes(12) not in ivs


def test_an_iv_serves_one_encryption_of_a_batch(arena: DmaArena) -> None:
    places = np.zeros(3, np.uint64)
    same = np.ones((3, 12), np.uint8)
    for ivs in (same[0], same):
        with pytest.raises(ArgumentError, match="AES-GCM encryption: ivs: one IV for several"):
            gcm_entries(SESSION, 1, places, places, 16, decrypt=False, ivs=ivs)
    assert len(gcm_entries(SESSION, [1, 2, 3], places, places, 16, decrypt=False, ivs=same)) == 3
    tags = np.zeros((3, 16), np.uint8)
    assert len(gcm_entries(SESSION, 1, places, places, 16, decrypt=True, ivs=same, tags=tags)) == 3


@pytest.mark.parametrize("given", [{}, {"ivs": np.zeros((3, 12), np.uint8)}, {"tags": np.zeros((3, 16), np.uint8)}])
def test_a_batch_of_decryptions_needs_ivs_and_tags(given: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=r"AES-GCM decryption: (ivs|tags): a decryption needs them"):
        gcm_entries(SESSION, 1, np.zeros(3, np.uint64), np.zeros(3, np.uint64), 16, decrypt=True, **given)


@pytest.mark.parametrize(
    ("changed", "argument"),
    [
        ({"sources": [[0]]}, "sources"),
        ({"sources": [-1]}, "sources"),
        ({"sources": [1.5]}, "sources"),
        ({"sources": "text"}, "sources"),
        ({"sources": [[1], [2, 3]]}, "sources"),
        ({"targets": [1, 2]}, "targets"),
        ({"text_bytes": 1 << 32}, "text_bytes"),
        ({"text_bytes": (1 << 32) - 1}, "text_bytes with AAD"),
        ({"text_bytes": [1, 2]}, "text_bytes"),
        ({"aad_bytes": -1}, "aad_bytes"),
        ({"key_ids": -1}, "key_ids"),
        ({"ivs": np.zeros((1, 11), np.uint8)}, "ivs"),
        ({"ivs": np.full((1, 12), 256)}, "ivs"),
        ({"ivs": [bytes(12)]}, "ivs"),
    ],
)
def test_batches_that_cannot_be_are_refused(changed: dict[str, Any], argument: str) -> None:
    right = {"key_ids": 1, "sources": [0], "targets": [0], "text_bytes": 16, "aad_bytes": 11}
    with pytest.raises((ArgumentError, ArgumentTypeError), match=f"AES-GCM encryption: {argument}: "):
        gcm_entries(SESSION, **{**right, **changed}, decrypt=False)


def test_nothing_is_sent_under_a_session_that_has_ended(aes: tuple[AesQueue, RingDevice]) -> None:
    queue, device = aes
    session = FastPathSession(3, 0)
    session.end()
    places = np.zeros(1, np.uint64)
    free = queue.room
    for size in (16, 5000):
        with pytest.raises(SessionClosedError, match="session 3 is closed"):
            queue.gcm_encrypt(session, 1, bytes(size), timeout_s=HANG_S)
        with pytest.raises(SessionClosedError):
            queue.xts(session, (1, 2), bytes(16), bytes(size), decrypt=True, timeout_s=HANG_S)
    with pytest.raises(SessionClosedError):
        gcm_entries(session, 1, places, places, 16, decrypt=False)
    with pytest.raises(SessionClosedError):
        xts_entries(session, (1, 2), places, places, 16, np.zeros(16, np.uint8), decrypt=False)
    assert device.fetch() == 0
    assert queue.room == free


@pytest.mark.parametrize(
    ("length", "front", "total"), [(0, 0, 0), (1, 16, 32), (16, 16, 32), (17, 0, 32), (33, 16, 64)]
)
def test_aad_padding(length: int, front: int, total: int) -> None:
    padded = pad_aad(b"a" * length)
    assert padded == (bytes(front) + b"a" * length).ljust(total, b"\0")


@pytest.mark.parametrize("dtype", [ADMIN_SQE, ADMIN_CQE, HSM_SQE, HSM_CQE, GCM_SQE, XTS_SQE, AES_CQE])
def test_codecs_agree_with_numpy(dtype: np.dtype[np.void]) -> None:
    raw = bytes(range(1, dtype.itemsize + 1))
    codec = RecordCodec(dtype)
    record = codec.unpack(raw)
    array = np.frombuffer(raw, dtype)
    expected = np.zeros(1, dtype)
    for name in dtype.names or ():
        expected[name] = array[name]
    assert codec.pack(*record) == expected.tobytes()


def at(arena: DmaArena, iova: int, size: int) -> bytes:
    start = iova - arena.iova
    return arena.array[start : start + size].tobytes()
