# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every condition under which the fast path refuses, alone and in the order of checks (`fast_path` of the table)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conformance.conditions import TABLE
from ihsm_abi.aes_queue import Cipher
from ihsm_device.hsm.keystore import BulkType, KeyStore
from support import aes_model
from support.aes_rig import (
    GCM_ID,
    GCM_KEY,
    XTS_ID_1,
    XTS_ID_2,
    XTS_KEY_1,
    AesRig,
    attr,
    descriptor,
    gcm_job,
    gcm_sqe,
    xts_job,
)  # fmt: skip

UNMAPPED = 0xDEAD_0000_0000
NO_KEY = 0x77
IV = bytes(range(12))
AAD = b"eleven byte"
TEXT = bytes(range(0x40, 0x65))
SENTINEL = 0xA5
# Ids of further keys: of another session, the same bytes again.
SESSION_GCM, SESSION_XTS_1, SESSION_XTS_2, OTHER_SESSION_XTS, SAME_BYTES = 0x20, 0x21, 0x22, 0x23, 0x24
OTHER_SESSION = 4


@dataclass
class Scene:
    """A good command with one data block on each side, and where its parts lie."""

    rig: AesRig
    sqe: np.ndarray
    src: tuple[int, int]
    dst: tuple[int, int]

    def rewrite(self, side: str, *, skip: int = 0, **changes: int) -> None:
        """Replace the only data block of a list: address, length, kind, sub_type."""
        block = dict(zip(("address", "length"), self.src if side == "src" else self.dst, strict=True)) | changes
        self.rig.memory.write(int(self.sqe[side]["addr"][0]) + skip, descriptor(**block))

    def length(self, side: str, difference: int) -> None:
        """Change the length of the only data block."""
        self.rewrite(side, length=(self.src if side == "src" else self.dst)[1] + difference)

    def run(self) -> Any:
        """Submit with a destination full of sentinels."""
        self.rig.memory.write(self.dst[0], bytes([SENTINEL]) * self.dst[1])
        return self.rig.run(self.sqe.tobytes())

    @property
    def untouched(self) -> bool:
        """Nothing has been written to the destination."""
        return self.rig.memory.read(*self.dst) == bytes([SENTINEL]) * self.dst[1]


@dataclass(frozen=True)
class Fault:
    """Something that makes a row's condition true. Two faults of one slot exclude each other."""

    row: str
    slot: str
    apply: Callable[[Scene], None]
    note: str = ""

    def __str__(self) -> str:
        return f"{self.row}-{self.note}" if self.note else self.row


def put(**fields: int) -> Callable[[Scene], None]:
    """Set fields of the queue entry."""

    def apply(scene: Scene) -> None:
        for name, value in fields.items():
            scene.sqe[name] = value

    return apply


def put_pointer(side: str, **fields: int) -> Callable[[Scene], None]:
    """Set fields of a data pointer of the queue entry; `skew` is added to its address."""

    def apply(scene: Scene) -> None:
        scene.sqe[side]["addr"] += np.uint64(fields.get("skew", 0))
        for name, value in fields.items():
            if name != "skew":
                scene.sqe[side][name] = value

    return apply


def shorter_destination(difference: int) -> Callable[[Scene], None]:
    """A destination of another length than the source, its list adding up to it."""

    def apply(scene: Scene) -> None:
        scene.sqe["dst_len"] = scene.dst[1] + difference
        scene.length("dst", difference)

    return apply


def list_faults() -> Iterator[Fault]:
    """Faults of the two lists, the same for both ciphers."""
    for side, fetch, structure in (
        ("src", "source-list-fetch", "source-descriptor"),
        ("dst", "destination-list-fetch", "destination-descriptor"),
    ):
        yield Fault(fetch, side, put_pointer(side, addr=UNMAPPED))
        yield Fault(fetch, side, put_pointer(side, addr=0), "null")
        yield Fault("lists-too-short", side, lambda s, side=side: s.length(side, -16), side)
        yield Fault("lists-too-long", side, lambda s, side=side: s.length(side, 1), side)
        yield Fault("source-data", side, lambda s, side=side: s.rewrite(side, address=UNMAPPED), side)
        for kind in (0x1, 0x4, 0x5, 0xF):
            yield Fault(structure, side, lambda s, side=side, k=kind: s.rewrite(side, kind=k), f"block type {kind:#x}")
            yield Fault(structure, side, put_pointer(side, type=kind << 4), f"type {kind:#x}")
        for kind in (0x2, 0x3):
            yield Fault(structure, side, lambda s, side=side, k=kind: s.rewrite(side, kind=k), f"early link {kind:#x}")
        yield Fault(structure, side, lambda s, side=side: s.rewrite(side, sub_type=1), "block sub-type")
        yield Fault(structure, side, put_pointer(side, type=0x31), "segment sub-type")
        yield Fault(structure, side, put_pointer(side, skew=16), "segment not at a page")
        for length in (0, 8, 24, 4112, 0xFFFFFFF0):
            yield Fault(structure, side, put_pointer(side, len=length), f"segment of {length}")


GCM_FAULTS = [
    Fault("aligned-aad", "aligned", put(aligned_aad_len=33)),
    Fault("aligned-aad", "aligned", put(aligned_aad_len=16), "half"),
    Fault("key-number", "key", put(key_id=0x10000 | GCM_ID)),
    Fault("key-number", "key", put(key_id=0xFFFF0000), "large"),
    Fault("key-unknown", "key", put(key_id=NO_KEY)),
    Fault("app-id", "app", put(short_app_id=1)),
    Fault("session", "key", put(key_id=SESSION_GCM)),
    Fault("key-type", "key", put(key_id=XTS_ID_1)),
    Fault("source-length", "length", put(src_len=65)),
    *list_faults(),
    Fault("shorter-than-aad", "aligned", put(aligned_aad_len=96)),
    Fault("destination-length", "dst", shorter_destination(-16)),
    Fault("tail-too-long", "tail", put(tail_src_len=16)),
    Fault("tail-too-long", "tail", put(tail_src_len=255), "255"),
    Fault("tail-source-null", "tail source", put(tail_src_addr=0)),
    Fault("tail-source-dma", "tail source", put(tail_src_addr=UNMAPPED)),
    Fault("tail-with-aad-no-sgl", "length", put(src_len=0, dst_len=0)),
    Fault("tail-destination", "tail destination", put(tail_dst_addr=0), "null"),
    Fault("tail-destination", "tail destination", put(tail_dst_len=4), "length"),
    Fault("tail-destination-dma", "tail destination", put(tail_dst_addr=UNMAPPED)),
    Fault("tag-mismatch-corrected", "tag", put(tag=0)),
]
XTS_FAULTS = [
    Fault("key1-type", "key 1", put(key_id1=GCM_ID)),
    Fault("key2-type", "key 2", put(key_id2=GCM_ID)),
    Fault("key1-number", "key 1", put(key_id1=0x10000 | XTS_ID_1)),
    Fault("key2-number", "key 2", put(key_id2=0x10000 | XTS_ID_2)),
    Fault("same-key", "both", put(key_id1=XTS_ID_1, key_id2=XTS_ID_1), "live"),
    Fault("same-key", "both", put(key_id1=NO_KEY, key_id2=NO_KEY), "not live"),
    Fault("key-unknown", "key 1", put(key_id1=NO_KEY), "first"),
    Fault("key-unknown", "key 2", put(key_id2=NO_KEY), "second"),
    Fault("session-only-differs", "key 1", put(key_id1=SESSION_XTS_1), "first"),
    Fault("session-only-differs", "key 2", put(key_id2=SESSION_XTS_2), "second"),
    Fault("equal-keys", "key 2", put(key_id2=SAME_BYTES)),
    Fault("app-id1", "app", put(short_app_id=1)),
    Fault("session1", "both", put(key_id1=SESSION_XTS_1, key_id2=SESSION_XTS_2, session_id=7)),
    Fault("session2", "both", put(key_id1=SESSION_XTS_1, key_id2=OTHER_SESSION_XTS)),
    Fault("source-length", "length", put(src_len=65)),
    Fault("too-long", "length", put(src_len=0x1000010)),
    *list_faults(),
    Fault("destination-length", "dst", shorter_destination(-16)),
]
FAULTS = {"gcm": GCM_FAULTS, "xts": XTS_FAULTS}
ROWS = {cipher: {row["id"]: row for row in TABLE["fast_path"][cipher]} for cipher in FAULTS}
SEPARATE = {("gcm", "tag-mismatch")}
"""Rows with a test of their own below."""


@pytest.fixture(scope="module")
def scenes(store: KeyStore) -> Iterator[Callable[[str], Scene]]:
    """Makes good commands."""
    rig = AesRig(store)
    rig.add_standard_keys()
    rig.add_key(SESSION_GCM, GCM_KEY, BulkType.GCM_APPROVED, session_id=OTHER_SESSION, session_only=True)
    rig.add_key(SESSION_XTS_1, bytes(32), BulkType.XTS, session_id=3, session_only=True)
    rig.add_key(SESSION_XTS_2, bytes(31) + b"\1", BulkType.XTS, session_id=3, session_only=True)
    rig.add_key(OTHER_SESSION_XTS, bytes(31) + b"\2", BulkType.XTS, session_id=OTHER_SESSION, session_only=True)
    rig.add_key(SAME_BYTES, XTS_KEY_1, BulkType.XTS)

    def make(cipher: str) -> Scene:
        rig.memory.free_all()
        if cipher == "xts":
            sqe, dst = xts_job(rig.memory, (XTS_ID_1, XTS_ID_2), bytes(16), bytes(64))
            return Scene(rig, sqe, _only_block(rig, sqe, "src"), dst[0])
        ciphertext, tag = aes_model.gcm(GCM_KEY, IV, AAD, len(AAD), TEXT, decrypt=False)
        job = gcm_job(rig.memory, GCM_ID, IV, ciphertext, AAD, decrypt=True, tag=tag)
        return Scene(rig, job.sqe, _only_block(rig, job.sqe, "src"), job.dst[0])

    yield make
    rig.close()


def _only_block(rig: AesRig, sqe: np.ndarray, side: str) -> tuple[int, int]:
    block = rig.memory.read(int(sqe[side]["addr"][0]), 12)
    return int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")


def test_every_reachable_row_has_a_fault() -> None:
    for cipher, rows in ROWS.items():
        reachable = {name for name, row in rows.items() if row["reachable"]}
        tested = {fault.row for fault in FAULTS[cipher]} | {row for of, row in SEPARATE if of == cipher}
        assert tested == reachable


@pytest.mark.parametrize(
    ("cipher", "fault"), [(cipher, fault) for cipher, faults in FAULTS.items() for fault in faults], ids=str
)
def test_condition(cipher: str, fault: Fault, scenes: Callable[[str], Scene], covers: Callable[..., None]) -> None:
    """The status pair, and what the completion shows besides."""
    row = ROWS[cipher][fault.row]
    scene = scenes(cipher)
    assert scene.run().status == (0, 0)
    scene = scenes(cipher)
    fault.apply(scene)
    completion = scene.run()
    assert completion.status == (row["sts"], row["err"])
    assert completion.iv == (IV if cipher == "gcm" else bytes(12))
    effect = row.get("effect", "")
    if row["order"] < 20 or row["sts"] in (1, 4, 9):
        assert scene.untouched
        assert (completion.len, completion.tail_dst_len, completion.tag) == (0, 0, bytes(16))
    elif effect == "SGL part done":
        assert (completion.len, completion.tail_dst_len) == (64, 0)
        assert scene.rig.memory.read(*scene.dst)[32:] == TEXT[:32]
    elif "computed tag" in effect or "tail" in effect:
        assert (completion.len, completion.tail_dst_len) == (64, 5)
        assert completion.tag != bytes(16)
        assert scene.rig.memory.read(*scene.dst)[32:] == TEXT[:32]
    covers(f"{cipher}/{fault.row}")


@pytest.mark.parametrize("cipher", list(FAULTS))
def test_order_of_checks(cipher: str, scenes: Callable[[str], Scene]) -> None:
    """With any two faults at once the one checked first is reported."""
    checked = 0
    firsts = [next(f for f in FAULTS[cipher] if (f.row, f.slot) == key) for key in _distinct(FAULTS[cipher])]
    for one, other in itertools.combinations(firsts, 2):
        rows = ROWS[cipher][one.row], ROWS[cipher][other.row]
        if _exclusive(one, other) or rows[0]["order"] == rows[1]["order"]:
            continue
        scene = scenes(cipher)
        one.apply(scene)
        other.apply(scene)
        expected = min(rows, key=lambda row: row["order"])
        assert scene.run().status == (expected["sts"], expected["err"]), f"{one} with {other}"
        checked += 1
    assert checked > 50


def _distinct(faults: list[Fault]) -> dict[tuple[str, str], None]:
    return dict.fromkeys((fault.row, fault.slot) for fault in faults)


def _exclusive(one: Fault, other: Fault) -> bool:
    """True if both cannot hold at once, or one hides the condition of the other."""
    slots = {one.slot, other.slot}
    rows = {one.row, other.row}
    if one.slot == other.slot or ("both" in slots and slots & {"key 1", "key 2"}):
        return True
    # Without an SGL nothing can be wrong with it; another source length makes the lists wrong too.
    if "length" in slots and slots & {"src", "dst", "aligned"} and rows & {"tail-with-aad-no-sgl", "too-long"}:
        return True
    # A key that is not there has no flags, bytes or sessions to compare.
    absent = {"key-unknown", "key1-number", "key2-number", "key1-type", "key2-type"}
    return bool(rows & absent) and bool(rows & {"session-only-differs", "equal-keys"})


def test_longer_destination(scenes: Callable[[str], Scene]) -> None:
    """The destination's length is larger than the source's: 4/0xB, whatever the cipher."""
    for cipher in FAULTS:
        scene = scenes(cipher)
        shorter_destination(16)(scene)
        assert scene.run().status == (4, 0xB)


def test_tag_mismatch_of_the_engine(scenes: Callable[[str], Scene], covers: Callable[..., None]) -> None:
    """AAD of 0 or 32 bytes and whole blocks: 3/9, with the computed tag and the plaintext in the destination."""
    rig = scenes("gcm").rig
    for aad in (b"", bytes(32), bytes(64)):
        ciphertext, tag = aes_model.gcm(GCM_KEY, IV, aad, len(aad), TEXT[:32], decrypt=False)
        job = gcm_job(rig.memory, GCM_ID, IV, ciphertext, aad, decrypt=True, tag=bytes(16))
        completion = rig.run(job.sqe.tobytes())
        assert (completion.status, completion.tag, completion.tail_dst_len) == ((3, 9), tag, 0)
        assert completion.len == len(aad) + 32
        assert job.output(rig.memory) == TEXT[:32]
    covers("gcm/tag-mismatch")


def test_empty_commands(scenes: Callable[[str], Scene]) -> None:
    """No source at all: GCM gives the tag of nothing, XTS does nothing."""
    rig = scenes("gcm").rig
    tag = aes_model.gcm(GCM_KEY, IV, b"", 0, b"", decrypt=False)[1]
    completion = rig.run(gcm_sqe(key_id=GCM_ID, iv=IV).tobytes())
    assert (completion.status, completion.tag, completion.len) == ((0, 0), tag, 0)
    opened = gcm_sqe(attr=attr(Cipher.GCM, decrypt=True), key_id=GCM_ID, iv=IV, tag=tag)
    assert rig.run(opened.tobytes()).status == (0, 0)
    sqe, _ = xts_job(rig.memory, (XTS_ID_1, XTS_ID_2), bytes(16), b"")
    assert rig.run(sqe.tobytes()).status == (0, 0)
