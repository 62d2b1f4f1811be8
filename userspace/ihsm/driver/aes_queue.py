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
from ihsm_abi.entries import RecordCodec
from ihsm_abi.pci import PAGE_BYTES

_GCM: Final = RecordCodec(GCM_SQE)
_XTS: Final = RecordCodec(XTS_SQE)
_DATA_BLOCK: Final = type_byte(SglType.DATA_BLOCK)

_SLOT_BYTES: Final = 1024
_INLINE_BYTES: Final = _SLOT_BYTES // 2
"""Source or destination of a one-shot command up to this size needs no allocation."""


@functools.cache
def aes_attr(cipher: Cipher, decrypt: bool, data_unit_code: int = 0) -> AesAttr:
    """Attribute word of a command with scatter-gather pointers (spec 02 C.2)."""
    return AesAttr.of(decrypt=int(decrypt), psdt=1, cmd_type=CMD_TYPE_FAST_PATH, cipher=cipher, dul=data_unit_code)


class _Staging:
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
        self._stagings: list[_Staging | None] = [None] * (entries - 1)
        self.gcm_workaround = True
        """Whether the firmware takes AAD and text of any length (feature AES_FW_CAPS); set at bring-up."""

    @classmethod
    def memory_bytes(cls, entries: int) -> int:
        """DMA memory that a queue takes."""
        return AES_RING.ring_bytes(entries) + -(-(entries - 1) * _SLOT_BYTES // PAGE_BYTES) * PAGE_BYTES

    def _send_gcm(
        self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> Submission:
        build, collect, held = self._gcm(session, command, decrypt, deliver)
        return self.submit_one(build, collect, timeout_s, held)

    def _await_gcm(self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float) -> Any:
        build, collect, held = self._gcm(session, command, decrypt, None)
        return self.carry_out(build, collect, timeout_s, held)

    def _gcm(
        self, session: FastPathSession, command: GcmArguments, decrypt: bool, deliver: Deliver | None
    ) -> _Prepared:
        key_id, text, aad, iv, tag = command
        padded = pad_aad(aad) if self.gcm_workaround else aad
        skip, size = len(padded), len(text)
        tail = (skip + size) % AES_BLOCK_BYTES if self.gcm_workaround else 0
        mapped = skip + size - tail
        attr = aes_attr(Cipher.GCM, decrypt)
        own = self._own_staging(skip + size)

        def build(cid: int) -> bytes:
            staging = own or self._staging(cid)
            staging.write(padded, text)
            return _GCM.pack(
                attr, cid, *session.ids,
                mapped, *_data_block(staging.source, mapped), mapped, *_data_block(staging.target, mapped),
                FRAME_TYPE_AES, key_id, len(aad), tag, iv, skip, tail, tail,
                staging.source + mapped if tail else 0, staging.target + mapped if tail else 0,
            )  # fmt: skip

        def collect(cid: int, cqe: Any) -> Any:
            check_status(cqe.psf, cqe.err)
            written = (own or self._staging(cid)).part(skip, size)
            return gcm_result(written, cqe, decrypt, deliver)

        return build, collect, own.held if own else None

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
        own = self._own_staging(len(data))
        size = len(data)

        def build(cid: int) -> bytes:
            staging = own or self._staging(cid)
            staging.write(b"", data)
            return _XTS.pack(
                attr, cid, *session.ids,
                size, *_data_block(staging.source, size), size, *_data_block(staging.target, size),
                FRAME_TYPE_AES, data_key, tweak_key, tweak,
            )  # fmt: skip

        def collect(cid: int, cqe: Any) -> Any:
            check_status(cqe.psf, cqe.err)
            written = (own or self._staging(cid)).part(0, size)
            return xts_result(written, cqe, deliver)

        return build, collect, own.held if own else None

    def _own_staging(self, source_bytes: int) -> _Staging | None:
        """Memory for a command too large for the slot of its command id."""
        if source_bytes <= _INLINE_BYTES:
            return None
        return _Staging(self._buffers.allocate(source_bytes), 0, source_bytes, own=True)

    def _staging(self, cid: int) -> _Staging:
        staging = self._stagings[cid]
        if staging is None:
            staging = self._stagings[cid] = _Staging(self._slots, cid * _SLOT_BYTES, _INLINE_BYTES, own=False)
        return staging

    def release(self) -> None:
        """Give rings and staging buffers back."""
        super().release()
        self._stagings.clear()
        self._slots.release()
