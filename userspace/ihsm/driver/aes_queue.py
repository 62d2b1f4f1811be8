# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES (FP) queue: one-shot AES-256-GCM and AES-256-XTS on bytes (spec 02 parts C and E).

For data that already lies in DMA memory, and for batches, see `ihsm.driver.aes_batch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from ihsm.bus import DmaArena, DmaBuffer
from ihsm.driver.aes_commands import (
    AesCommands,
    Deliver,
    GcmArguments,
    XtsArguments,
    gcm_result,
    pad_aad,
    padded_aad_bytes,
    xts_result,
)
from ihsm.driver.aes_status import check_status
from ihsm.driver.buffers import Buffers
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.rings import AES_RING
from ihsm.driver.sgl import type_byte
from ihsm.driver.submission import Collect, Submission
from ihsm.fast_path import FastPathSession
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    CMD_TYPE_FAST_PATH,
    FRAME_TYPE_AES,
    GCM_SQE,
    XTS_SQE,
    AesAttr,
    Cipher,
    SglType,
)
from ihsm_abi.entries import RecordCodec, field_slice
from ihsm_abi.pci import PAGE_BYTES

_GCM: Final = RecordCodec(GCM_SQE)
_XTS: Final = RecordCodec(XTS_SQE)
_IV: Final = field_slice(GCM_SQE, "iv")
_TAG: Final = field_slice(GCM_SQE, "tag")
_DATA_BLOCK: Final = type_byte(SglType.DATA_BLOCK)

_SLOT_BYTES: Final = 1024
_INLINE_BYTES: Final = _SLOT_BYTES // 2
"""Source or destination of a one-shot command up to this size needs no allocation."""


@functools.cache
def aes_attr(cipher: Cipher, decrypt: bool, data_unit_code: int = 0) -> AesAttr:
    """Attribute word of a command with scatter-gather pointers (spec 02 C.2)."""
    return AesAttr.of(decrypt=int(decrypt), psdt=1, cmd_type=CMD_TYPE_FAST_PATH, cipher=cipher, dul=data_unit_code)


class Staging:
    """Where a one-shot command's source and destination lie."""

    __slots__ = ("_bytes", "_start", "held", "source", "target")

    def __init__(self, memory: DmaBuffer, start: int, room: int, *, own: bool) -> None:
        """Part of a buffer, source and destination of `room` bytes each; a buffer of the command's own is both."""
        self._start = 0 if own else room
        self.held = memory if own else None
        self.source = memory.iova + start
        """I/O address of the source."""
        self.target = self.source + self._start
        """I/O address of the destination."""
        self._bytes = memory.view[start : start + self._start + room].data

    def write(self, head: bytes, text: bytes | memoryview) -> None:
        """Fill in the source."""
        skip = len(head)
        self._bytes[:skip] = head
        self._bytes[skip : skip + len(text)] = text

    def part(self, skip: int, size_bytes: int) -> memoryview:
        """Part of the destination."""
        start = self._start + skip
        return self._bytes[start : start + size_bytes]


_Prepared = tuple[Callable[[int], bytes], Collect, DmaBuffer | None]
"""What makes a command's entry, what makes its result, and the memory that is its own."""


def _data_block(iova: int, size_bytes: int) -> tuple[int, int, int]:
    return (iova, size_bytes, _DATA_BLOCK) if size_bytes else (0, 0, 0)


_Sort = tuple[int, int, int, int, int, bool, bool]
"""Key, bytes of text and of AAD, session id, short application id, direction, and `AesQueue.gcm_workaround`."""


class _GcmShape:
    """Entries of AES-GCM commands that differ in IV, tag, AAD and text alone; used under the queue's lock."""

    __slots__ = (
        "_aad", "_cid", "_entry", "_own", "_pads", "_queue", "_size", "_skip", "_staging", "_written", "held", "sort",
    )  # fmt: skip

    def __init__(self, queue: AesQueue, sort: _Sort) -> None:
        """`sort` is what they have in common. Larger ones have memory of their own: such a shape serves one command."""
        _, self._size, self._aad, _, _, _, workaround = self.sort = sort
        self._queue = queue
        self._skip = padded_aad_bytes(self._aad) if workaround else self._aad
        self._pads = self._skip != self._aad
        self._own = queue.own_staging(self._skip + self._size)
        self.held = self._own.held if self._own else None
        self._staging: Staging | None = None
        self._cid: int | None = None
        self._written = memoryview(b"")
        self._entry = memoryview(bytearray(GCM_SQE.itemsize))

    def _prepare(self, cid: int) -> Staging:
        """Have the entry ready but for IV and tag."""
        key_id, size, aad_bytes, session_id, short_app_id, decrypt, workaround = self.sort
        skip, staging = self._skip, self._own or self._queue.staging(cid)
        tail = (skip + size) % AES_BLOCK_BYTES if workaround else 0
        mapped = skip + size - tail
        self._entry[:] = _GCM.pack(
            aes_attr(Cipher.GCM, decrypt), cid, session_id, short_app_id,
            mapped, *_data_block(staging.source, mapped), mapped, *_data_block(staging.target, mapped),
            FRAME_TYPE_AES, key_id, aad_bytes, b"", b"", skip, tail, tail,
            staging.source + mapped if tail else 0, staging.target + mapped if tail else 0,
        )  # fmt: skip
        self._cid, self._staging, self._written = cid, staging, staging.part(skip, size)
        return staging

    def build(self, session: FastPathSession, command: GcmArguments, cid: int) -> bytes:
        """The entry of a command, whose AAD and text are now where the device looks for them.

        Raises:
            SessionClosedError: the session has ended.
        """
        session.check()
        _, text, aad, iv, tag = command
        staging = self._staging
        if staging is None or cid != self._cid:
            staging = self._prepare(cid)
        staging.write(pad_aad(aad) if self._pads else aad, text)
        entry = self._entry
        entry[_IV] = iv
        entry[_TAG] = tag
        return bytes(entry)

    def collect(self, cid: int, cqe: Any, deliver: Deliver | None = None) -> Any:
        """The result of a command that has completed; errors as `check_status`, and what `deliver` raises."""
        check_status(cqe.psf, cqe.err)
        if cid == self._cid:
            written = self._written
        else:
            written = (self._own or self._queue.staging(cid)).part(self._skip, self._size)
        return gcm_result(written, cqe, self.sort[5], deliver)


class AesQueue(QueuePair, AesCommands[Submission]):
    """An AES queue pair with a small staging buffer for each of its command ids."""

    def __init__(
        self,
        queue_id: int,
        entries: int,
        arena: DmaArena,
        bells: Doorbells,
        line: CompletionLine,
        *,
        buffers: Buffers | None = None,
    ) -> None:
        """Allocate rings and staging buffers; `buffers` is where larger commands have theirs, if not in `arena`."""
        super().__init__(AES_RING, queue_id, entries, arena, bells, line)
        self._buffers: DmaArena | Buffers = arena if buffers is None else buffers
        self._slots = arena.allocate_pages((entries - 1) * _SLOT_BYTES)
        self._last_shape: _GcmShape | None = None
        self._stagings: list[Staging | None] = [None] * (entries - 1)
        self.gcm_workaround = True
        """Whether the firmware takes AAD and text of any length (feature AES_FW_CAPS); set at bring-up."""

    @classmethod
    def memory_bytes(cls, entries: int) -> int:
        """DMA memory that a queue takes."""
        return AES_RING.ring_bytes(entries) + -(-(entries - 1) * _SLOT_BYTES // PAGE_BYTES) * PAGE_BYTES

    def _send_gcm(
        self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> Submission:
        shape = self._gcm_shape(session, command, decrypt)
        collect = shape.collect if deliver is None else functools.partial(shape.collect, deliver=deliver)
        return self.submit_one(functools.partial(shape.build, session, command), collect, timeout_s, shape.held)

    def _await_gcm(self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float) -> Any:
        shape = self._gcm_shape(session, command, decrypt)
        return self.carry_out(functools.partial(shape.build, session, command), shape.collect, timeout_s, shape.held)

    def _gcm_shape(self, session: FastPathSession, command: GcmArguments, decrypt: bool) -> _GcmShape:
        """That of the last command, if it serves this one, too."""
        key_id, text, aad, _, _ = command
        workaround = self.gcm_workaround
        sort = (key_id, len(text), len(aad), session.session_id, session.short_app_id, decrypt, workaround)
        shape = self._last_shape
        if shape is None or shape.sort != sort:
            shape = _GcmShape(self, sort)
            if shape.held is None:
                self._last_shape = shape
        return shape

    def _send_xts(
        self, session: FastPathSession, command: XtsArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> Submission:
        build, collect, held = self._xts(session, command, decrypt, deliver)
        return self.submit_one(build, collect, timeout_s, held)

    def _await_xts(self, session: FastPathSession, command: XtsArguments, decrypt: bool, timeout_s: float) -> Any:
        build, collect, held = self._xts(session, command, decrypt, None)
        return self.carry_out(build, collect, timeout_s, held)

    def _xts(
        self, session: FastPathSession, command: XtsArguments, decrypt: bool, deliver: Deliver | None
    ) -> _Prepared:
        data, tweak, (data_key, tweak_key), code = command
        attr = aes_attr(Cipher.XTS, decrypt, code)
        own = self.own_staging(len(data))
        size = len(data)

        def build(cid: int) -> bytes:
            staging = own or self.staging(cid)
            staging.write(b"", data)
            return _XTS.pack(
                attr, cid, *session.ids,
                size, *_data_block(staging.source, size), size, *_data_block(staging.target, size),
                FRAME_TYPE_AES, data_key, tweak_key, tweak,
            )  # fmt: skip

        def collect(cid: int, cqe: Any) -> Any:
            check_status(cqe.psf, cqe.err)
            written = (own or self.staging(cid)).part(0, size)
            return xts_result(written, cqe, deliver)

        return build, collect, own.held if own else None

    def own_staging(self, source_bytes: int) -> Staging | None:
        """Memory for a command too large for the slot of its command id."""
        if source_bytes <= _INLINE_BYTES:
            return None
        return Staging(self._buffers.allocate(source_bytes), 0, source_bytes, own=True)

    def staging(self, cid: int) -> Staging:
        """The slot of a command id."""
        staging = self._stagings[cid]
        if staging is None:
            staging = self._stagings[cid] = Staging(self._slots, cid * _SLOT_BYTES, _INLINE_BYTES, own=False)
        return staging

    def release(self) -> None:
        """Give rings and staging buffers back."""
        super().release()
        self._last_shape = None
        self._stagings.clear()
        self._slots.release()
