# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An engine with AES queues over a loopback host: tests put queue entries in and get completions back."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    AES_CQE,
    CMD_TYPE_FAST_PATH,
    FRAME_TYPE_AES,
    GCM_SQE,
    SGL_DESCRIPTOR,
    XTS_SQE,
    AesAttr,
    Cipher,
    SglType,
)
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device.engine import Engine
from ihsm_device.hosts import LoopbackHost
from ihsm_device.hsm.keystore import BulkTable, BulkType, Handle, KeyStore, Owner
from ihsm_device.scheduler import Scheduler
from support.aes_model import padded_aad
from support.guest_memory import GuestMemory
from support.waiting import first

RING_IOVA = 0x1_0000_0000
DATA_BLOCKS_PER_SEGMENT = 255
GCM_KEY = bytes(range(32))
XTS_KEY_1 = bytes(range(32, 64))
XTS_KEY_2 = bytes(range(64, 96))
GCM_ID, APPROVED_ID, XTS_ID_1, XTS_ID_2 = 0x12, 0x11, 0x13, 0x14
Block = tuple[int, int]
"""Address and length of a data block."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An AES CQE, taken apart."""

    raw: bytes
    sts: int
    err: int
    tag: bytes
    iv: bytes
    len: int
    tail_dst_len: int
    fips_approved: int
    cmd_id: int

    @classmethod
    def parse(cls, raw: bytes) -> Completion:
        """Decode the 64 bytes."""
        cqe = np.frombuffer(raw, AES_CQE)[0]
        return cls(
            raw, int(Psf(cqe["psf"]).status), int(cqe["err"]), cqe["tag"].tobytes(), cqe["iv"].tobytes(),
            int(cqe["len"]), int(cqe["tail_dst_len"]), int(cqe["fips_approved"]), int(cqe["cmd_id"]),
        )  # fmt: skip

    @property
    def status(self) -> tuple[int, int]:
        """`sts` and `err`."""
        return self.sts, self.err


class AesRig:
    """One function with AES queues 256, 257, … and a table of keys."""

    def __init__(
        self, store: KeyStore, memory_bytes: int = 1 << 22, *, region_ends: Sequence[int] = (), entries: int = 16,
        queues: int = 1, fips: bool = False, device_iv: bool = False, aes_workers: int = 1,
        table: BulkTable | None = None, scheduler: Scheduler | None = None, doorbell_page: bool = False,
    ) -> None:  # fmt: skip
        self.store = store
        self.owns_table = table is None
        self.table = store.bulk_table(0) if table is None else table
        self.handles: list[Handle] = []
        self.owns_scheduler = scheduler is None
        self.scheduler = Scheduler(aes_workers=aes_workers) if scheduler is None else scheduler
        self.host = LoopbackHost()
        self.engine = Engine(self.scheduler, self.host, doorbell_page=doorbell_page)
        self.engine.set_keys(self.table, fips=fips, device_iv=device_iv)
        self.memory = GuestMemory(self.host, memory_bytes, ends=region_ends)
        self.queues: dict[int, AesQueue] = {}
        for queue_id in range(FIRST_AES_QUEUE_ID, FIRST_AES_QUEUE_ID + queues):
            self.queues[queue_id] = AesQueue(self, queue_id, entries)

    def add_key(
        self,
        key_id: int,
        key: bytes,
        kind: BulkType,
        *,
        session_id: int = 3,
        app_id: int = 0,
        session_only: bool = False,
    ) -> None:
        """Publish `key` under `key_id`."""
        handle = self.store.import_secret(key, Owner())
        self.handles.append(handle)
        self.table.publish(key_id, handle, kind, session_id=session_id, app_id=app_id, session_only=session_only)

    def add_standard_keys(self) -> None:
        """A GCM key of each kind (the same bytes) and a pair of XTS keys."""
        self.add_key(GCM_ID, GCM_KEY, BulkType.GCM_UNAPPROVED)
        self.add_key(APPROVED_ID, GCM_KEY, BulkType.GCM_APPROVED)
        self.add_key(XTS_ID_1, XTS_KEY_1, BulkType.XTS)
        self.add_key(XTS_ID_2, XTS_KEY_2, BulkType.XTS)

    def run(self, sqe: bytes, queue_id: int = FIRST_AES_QUEUE_ID) -> Completion:
        """Submit one entry and wait for its completion."""
        queue = self.queues[queue_id]
        queue.submit([sqe])
        [completion] = queue.reap(1)
        return completion

    def close(self) -> None:
        """Disable the function and free everything."""
        self.engine.close()
        if self.owns_scheduler:
            self.scheduler.close()
        if self.owns_table:
            self.table.close()
        for handle in self.handles:
            self.store.destroy(handle)


@contextlib.contextmanager
def standard_rig(*, queues: int = 1, aes_workers: int = 1, doorbell_page: bool = False) -> Iterator[AesRig]:
    """A rig with the standard keys, of a store that is the test's own."""
    store = KeyStore()
    rig = AesRig(store, queues=queues, aes_workers=aes_workers, doorbell_page=doorbell_page)
    rig.add_standard_keys()
    yield rig
    rig.close()
    store.close()


class AesQueue:
    """Submission and completion ring of one id."""

    def __init__(self, rig: AesRig, queue_id: int, entries: int, *, vector: int | None = None) -> None:
        self.rig = rig
        self.entries = entries
        self.doorbell = 8 * queue_id
        sq_bytes, cq_bytes = entries * GCM_SQE.itemsize, entries * AES_CQE.itemsize
        base = RING_IOVA + (queue_id - FIRST_AES_QUEUE_ID << 24)
        self.memory = GuestMemory(rig.host, -(-(sq_bytes + cq_bytes) // PAGE_BYTES) * PAGE_BYTES, base=base)
        self.sq, self.cq = base, base + sq_bytes
        self.tail = self.head = 0
        self.phase = 1
        rig.engine.create_cq(queue_id, self.cq, entries, vector)
        rig.engine.create_sq(queue_id, self.sq, entries, queue_id)

    def submit(self, sqes: Sequence[bytes]) -> None:
        """Write entries and ring the doorbell once."""
        for sqe in sqes:
            self.memory.write(self.sq + self.tail * GCM_SQE.itemsize, sqe)
            self.tail = (self.tail + 1) % self.entries
        self.rig.engine.doorbell(self.doorbell, self.tail)

    def reap(self, count: int) -> list[Completion]:
        """The next `count` completions, head doorbell rung once."""
        completions = []
        for number in range(count):
            raw = first(self._next_raw, f"completion {number} of {count}", every_s=0.0001)
            completions.append(Completion.parse(raw))
            self.head = (self.head + 1) % self.entries
            self.phase ^= self.head == 0
        self.rig.engine.doorbell(self.doorbell + 4, self.head)
        return completions

    def _next_raw(self) -> bytes | None:
        """The entry at the head if its phase says that it is there."""
        raw = self.memory.read(self.cq + self.head * AES_CQE.itemsize, AES_CQE.itemsize)
        return raw if raw[-2] & 1 == self.phase else None


def descriptor(address: int, length: int, kind: int = SglType.DATA_BLOCK, sub_type: int = 0) -> bytes:
    """One 16-byte SGL descriptor."""
    return np.array([(address, length, kind << 4 | sub_type)], SGL_DESCRIPTOR).tobytes()


def write_sgl(memory: GuestMemory, blocks: Sequence[Block], per_segment: int = DATA_BLOCKS_PER_SEGMENT) -> bytes:
    """Write segments for the blocks; returns the descriptor that belongs into the queue entry (spec 02 C.4)."""
    if not blocks:
        return bytes(SGL_DESCRIPTOR.itemsize)
    segments = [blocks[i : i + per_segment] for i in range(0, len(blocks), per_segment)]
    link = b""
    for segment in reversed(segments):
        body = b"".join(descriptor(*block) for block in segment) + link
        address = memory.allocate(len(body))
        memory.write(address, body)
        kind = SglType.SEGMENT if link else SglType.LAST_SEGMENT
        link = descriptor(address, len(body), kind)
    return link


def prp(*entries: int) -> bytes:
    """Two page pointers in place of a descriptor."""
    return np.array((*entries, 0)[:2], "<u8").tobytes()


def write_prps(memory: GuestMemory, content: bytes, *, skew: int = 256) -> tuple[bytes, list[Block]]:
    """Pages for `content`, the first from `skew` on: what belongs into the queue entry, and the pages."""
    blocks: list[Block] = []
    while content:
        at = 0 if blocks else skew
        part = min(PAGE_BYTES - at, len(content))
        blocks.append((memory.allocate(part, skew=at), part))
        memory.write(blocks[-1][0], content[:part])
        content = content[part:]
    rest = [address for address, _ in blocks[1:]]
    if len(rest) < 2:
        return prp(blocks[0][0], *rest), blocks
    # The list starts three entries before the end of a page, so that it must lead on.
    at = first_list = memory.allocate(24, skew=PAGE_BYTES - 24)
    while rest:
        room = (PAGE_BYTES - at % PAGE_BYTES) // 8
        if len(rest) <= room:
            memory.write(at, np.array(rest, "<u8").tobytes())
            break
        following = memory.allocate(PAGE_BYTES)
        memory.write(at, np.array([*rest[: room - 1], following], "<u8").tobytes())
        rest, at = rest[room - 1 :], following
    return prp(blocks[0][0], first_list), blocks


def scatter(memory: GuestMemory, length: int, cuts: Sequence[int], skews: Sequence[int] = (0,)) -> list[Block]:
    """Fresh buffers for `length` bytes cut at the given offsets, each at the next skew."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < length}), length]
    blocks = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        if high > low:
            blocks.append((memory.allocate(high - low, skew=skews[i % len(skews)]), high - low))
    return blocks


def write_blocks(memory: GuestMemory, blocks: Sequence[Block], data: bytes) -> None:
    """Spread `data` over the blocks."""
    for address, length in blocks:
        memory.write(address, data[:length])
        data = data[length:]


def read_blocks(memory: GuestMemory, blocks: Sequence[Block]) -> bytes:
    """Gather what the blocks hold."""
    return b"".join(memory.read(address, length) for address, length in blocks)


def attr(cipher: Cipher, *, decrypt: bool = False, dul: int = 0, sgl: bool = True) -> int:
    """Attribute word of an entry (spec 02 C.2)."""
    return AesAttr.of(decrypt=decrypt, psdt=sgl, cmd_type=CMD_TYPE_FAST_PATH, cipher=cipher, dul=dul)


def gcm_sqe(**fields: object) -> np.ndarray:
    """A GCM entry of session 3 with the given fields, as an array of one record that tests may change."""
    return _sqe(GCM_SQE, {"attr": attr(Cipher.GCM), **fields})


def xts_sqe(**fields: object) -> np.ndarray:
    """An XTS entry likewise."""
    return _sqe(XTS_SQE, {"attr": attr(Cipher.XTS), **fields})


def _sqe(dtype: np.dtype[np.void], fields: dict[str, object]) -> np.ndarray:
    sqe = np.zeros(1, dtype)
    raw = sqe.view(np.uint8)
    for name, value in ({"session_id": 3, "frame_type": FRAME_TYPE_AES} | fields).items():
        if isinstance(value, bytes):
            offset = dtype.fields[name][1]  # type: ignore[index]
            raw[offset : offset + len(value)] = np.frombuffer(value, np.uint8)
        else:
            sqe[name] = value
    return sqe


@dataclass(frozen=True)
class GcmJob:
    """A GCM command as the Linux driver builds it with the workaround active: padded AAD, tail apart (spec 02 C.6)."""

    sqe: np.ndarray
    dst: list[Block]
    aligned_aad_len: int
    tail: Block | None

    def output(self, memory: GuestMemory) -> bytes:
        """The text that the device has written."""
        text = read_blocks(memory, self.dst)[self.aligned_aad_len :]
        return text + (memory.read(*self.tail) if self.tail else b"")


def gcm_job(
    memory: GuestMemory, key_id: int, iv: bytes, text: bytes, aad: bytes = b"", *, decrypt: bool = False,
    tag: bytes = bytes(16), src_cuts: Sequence[int] = (), dst_cuts: Sequence[int] = (), skews: Sequence[int] = (0,),
    in_place: bool = False, per_segment: int = DATA_BLOCKS_PER_SEGMENT,
) -> GcmJob:  # fmt: skip
    """Lay out buffers, lists and the entry."""
    region = padded_aad(aad)
    tail_len = len(text) % AES_BLOCK_BYTES
    source = region + text[: len(text) - tail_len]
    src = scatter(memory, len(source), src_cuts, skews)
    write_blocks(memory, src, source)
    dst = src if in_place else scatter(memory, len(source), dst_cuts, skews[::-1])
    sqe = gcm_sqe(
        attr=attr(Cipher.GCM, decrypt=decrypt), key_id=key_id, iv=iv, tag=tag, actual_aad_len=len(aad),
        aligned_aad_len=len(region), src_len=len(source), dst_len=len(source),
        src=write_sgl(memory, src, per_segment), dst=write_sgl(memory, dst, per_segment),
    )  # fmt: skip
    tail = None
    if tail_len:
        tail = memory.allocate(tail_len), tail_len
        memory.write(tail[0], text[-tail_len:])
        sqe["tail_src_len"] = sqe["tail_dst_len"] = tail_len
        sqe["tail_src_addr"] = sqe["tail_dst_addr"] = tail[0]
    return GcmJob(sqe, dst, len(region), tail)


def xts_job(
    memory: GuestMemory, key_ids: tuple[int, int], tweak: bytes, data: bytes, *, decrypt: bool = False, dul: int = 0,
    src_cuts: Sequence[int] = (), dst_cuts: Sequence[int] = (), skews: Sequence[int] = (0,), in_place: bool = False,
    per_segment: int = DATA_BLOCKS_PER_SEGMENT,
) -> tuple[np.ndarray, list[Block]]:  # fmt: skip
    """Lay out buffers, lists and the entry of an XTS command; returns entry and destination blocks."""
    src = scatter(memory, len(data), src_cuts, skews)
    write_blocks(memory, src, data)
    dst = src if in_place else scatter(memory, len(data), dst_cuts, skews[::-1])
    sqe = xts_sqe(
        attr=attr(Cipher.XTS, decrypt=decrypt, dul=dul), key_id1=key_ids[0], key_id2=key_ids[1], tweak=tweak,
        src_len=len(data), dst_len=len(data),
        src=write_sgl(memory, src, per_segment), dst=write_sgl(memory, dst, per_segment),
    )  # fmt: skip
    return sqe, dst
