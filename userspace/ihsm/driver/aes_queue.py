# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES (FP) queue: one-shot AES-256-GCM and AES-256-XTS on bytes (spec 02 parts C and E).

For data that already lies in DMA memory, and for batches, see `ihsm.driver.aes_batch`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ihsm.arguments import flag, integer, octets
from ihsm.bus import DmaArena, DmaBuffer
from ihsm.driver.aes_status import check_status
from ihsm.driver.buffers import Buffers
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.records import RecordCodec
from ihsm.driver.rings import AES_RING
from ihsm.driver.sgl import type_byte
from ihsm.driver.submission import Submission
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm.fast_path import FastPathSession
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    CMD_TYPE_FAST_PATH,
    DATA_UNIT_BYTES,
    FRAME_TYPE_AES,
    GCM_AAD_ALIGNMENT_BYTES,
    GCM_IV_BYTES,
    GCM_SQE,
    GCM_TAG_BYTES,
    XTS_SQE,
    AesAttr,
    Cipher,
    SglType,
)
from ihsm_abi.pci import PAGE_BYTES

DATA_UNIT_CODE: Final = {0: 0, **{size: code for code, size in DATA_UNIT_BYTES.items()}}
"""`dul` by bytes of a data unit; 0 bytes: the whole source is one unit."""

_GCM: Final = RecordCodec(GCM_SQE)
_XTS: Final = RecordCodec(XTS_SQE)
_DATA_BLOCK: Final = type_byte(SglType.DATA_BLOCK)

_MAX_KEY_ID: Final = 0xFFFF_FFFF
_GCM_LENGTHS: Final = (GCM_IV_BYTES, GCM_TAG_BYTES)
_NO_TAG: Final = bytes(GCM_TAG_BYTES)

_SLOT_BYTES: Final = 1024
_INLINE_BYTES: Final = _SLOT_BYTES // 2
"""Source or destination of a one-shot command up to this size needs no allocation."""


Deliver = Callable[[memoryview, Any], Any]
"""Makes a command's result from the bytes that the device wrote, which are its own for the time of this call alone, and
the completion. May raise `IhsmError`. It runs under the queue's lock, and not at all once the command has failed."""


class GcmSealed(NamedTuple):
    """Result of an AES-GCM encryption."""

    ciphertext: bytes
    tag: bytes
    iv: bytes
    """The IV used: the caller's, one drawn for this command, or the device's own (spec 02 E.3)."""
    fips_approved: bool


class AesOutput(NamedTuple):
    """Result of an AES-GCM decryption or of AES-XTS."""

    data: bytes
    fips_approved: bool


def draw_iv() -> bytes:
    """Random IV of 96 bits for one AES-GCM encryption (NIST SP 800-38D §8.2.2: at most 2^32 under one key)."""
    return os.urandom(GCM_IV_BYTES)


def check_session(operation: str, session: FastPathSession) -> None:
    """See that AES commands are given a session; ArgumentTypeError if not."""
    if not isinstance(session, FastPathSession):
        raise ArgumentTypeError(operation, "session", f"{type(session).__name__}, must be a FastPathSession")


def gcm_operation(decrypt: bool) -> str:
    """Name of an AES-GCM command in messages; ArgumentTypeError if `decrypt` is no direction."""
    return "AES-GCM decryption" if flag("AES-GCM", "decrypt", decrypt) else "AES-GCM encryption"


def _refuse_tag(decrypt: bool) -> None:
    raise ArgumentError(gcm_operation(decrypt), "tag", "only a decryption takes one")


def _gcm_arguments(
    decrypt: bool,
    session: FastPathSession,
    key_id: int,
    text: bytes | memoryview,
    aad: bytes,
    iv: bytes,
    tag: bytes | None,
) -> tuple[int, bytes | memoryview, bytes, bytes, bytes]:
    """Key id, text, AAD, IV and tag as an entry takes them; ArgumentError, ArgumentTypeError if they cannot be."""
    operation = gcm_operation(decrypt)
    check_session(operation, session)
    return (
        integer(operation, "key_id", key_id, 0, _MAX_KEY_ID),
        _text(operation, "text", text),
        octets(operation, "aad", aad),
        octets(operation, "IV", iv, GCM_IV_BYTES),
        octets(operation, "tag", tag, GCM_TAG_BYTES),
    )


def _text(operation: str, argument: str, value: bytes | memoryview) -> bytes | memoryview:
    """Text as it is copied into DMA memory: a view of plain bytes needs no copy before that; errors as `octets`."""
    if isinstance(value, memoryview) and value.ndim == 1 and value.format == "B" and value.c_contiguous:
        return value
    return octets(operation, argument, value)


def unit_code(operation: str, data_unit_bytes: int) -> int:
    """`dul` of a data unit's bytes (spec 02 C.2).

    Raises:
        ArgumentError: no such data unit.
    """
    code = DATA_UNIT_CODE.get(integer(operation, "data_unit_bytes", data_unit_bytes, 0, max(DATA_UNIT_CODE)))
    if code is None:
        raise ArgumentError(operation, "data_unit_bytes", f"{data_unit_bytes}, one of {sorted(DATA_UNIT_CODE)} needed")
    return code


def key_pair(operation: str, key_ids: tuple[int, int]) -> tuple[int, int]:
    """Data key and tweak key of an XTS command.

    Raises:
        ArgumentError, ArgumentTypeError: not two ids.
    """
    if not isinstance(key_ids, Sequence) or len(key_ids) != 2:
        raise ArgumentTypeError(operation, "key_ids", "the ids of two keys needed, data key and tweak key")
    first, second = key_ids
    return (
        integer(operation, "key_ids", first, 0, _MAX_KEY_ID),
        integer(operation, "key_ids", second, 0, _MAX_KEY_ID),
    )


@functools.cache
def aes_attr(cipher: Cipher, decrypt: bool, data_unit_code: int = 0) -> AesAttr:
    """Attribute word of a command with scatter-gather pointers (spec 02 C.2)."""
    return AesAttr.of(decrypt=int(decrypt), psdt=1, cmd_type=CMD_TYPE_FAST_PATH, cipher=cipher, dul=data_unit_code)


def pad_aad(aad: bytes) -> bytes:
    """AAD laid out as the device needs it for the tag to be the standard one (spec 02 C.6)."""
    rest = len(aad) % GCM_AAD_ALIGNMENT_BYTES
    if rest == 0:
        return aad
    head = bytes(AES_BLOCK_BYTES) if rest <= AES_BLOCK_BYTES else b""
    return (head + aad).ljust(-(-len(aad) // GCM_AAD_ALIGNMENT_BYTES) * GCM_AAD_ALIGNMENT_BYTES, b"\0")


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


def _data_block(iova: int, size_bytes: int) -> tuple[int, int, int]:
    return (iova, size_bytes, _DATA_BLOCK) if size_bytes else (0, 0, 0)


class AesQueue(QueuePair):
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

    def gcm_encrypt(
        self,
        session: FastPathSession,
        key_id: int,
        plaintext: bytes,
        *,
        timeout_s: float,
        aad: bytes = b"",
        iv: bytes | None = None,
    ) -> GcmSealed:
        """AES-256-GCM encryption (NIST SP 800-38D), 128-bit tag.

        Args:
            session: `Session.fast_path` of an open session.
            key_id: fast-path id of the key.
            plaintext: any length; longer text than half a KiB takes a buffer, see `ihsm.driver.buffers`.
            timeout_s: seconds.
            aad: additional authenticated data.
            iv: 12 bytes, never the same twice under one key; None: drawn at random for this command. A device that
                chooses the IV of approved keys itself (spec 05 §17.1) uses neither: the result says which it was.

        Raises:
            SessionClosedError: the session has ended.
            AesCommandError: the device refused the command.
            ArenaError: no DMA memory for it.
        """
        sealed: GcmSealed = self.submit_gcm(
            session, key_id, plaintext, decrypt=False, aad=aad, iv=draw_iv() if iv is None else iv, timeout_s=timeout_s
        ).result()
        return sealed

    def gcm_decrypt(
        self,
        session: FastPathSession,
        key_id: int,
        ciphertext: bytes,
        tag: bytes,
        iv: bytes,
        *,
        timeout_s: float,
        aad: bytes = b"",
    ) -> AesOutput:
        """AES-256-GCM decryption.

        Raises:
            AuthenticationFailedError: the tag does not match; nothing is returned.
            AesCommandError: the device refused the command.
        """
        output: AesOutput = self.submit_gcm(
            session, key_id, ciphertext, decrypt=True, aad=aad, iv=iv, tag=tag, timeout_s=timeout_s
        ).result()
        return output

    def submit_gcm(
        self,
        session: FastPathSession,
        key_id: int,
        text: bytes | memoryview,
        *,
        decrypt: bool,
        iv: bytes,
        timeout_s: float,
        aad: bytes = b"",
        tag: bytes | None = None,
        deliver: Deliver | None = None,
    ) -> Submission:
        """Submit one AES-GCM command; its result is a `GcmSealed` or, decrypting, an `AesOutput`.

        Args as for `gcm_encrypt` and `gcm_decrypt`, but `iv` always has 12 bytes, see `draw_iv`; `tag` belongs to a
        decryption alone. With `deliver` the result is what that makes of the text, without a copy before.
        """
        if tag is None and decrypt is False:
            tag = _NO_TAG
        elif decrypt is not True:
            _refuse_tag(decrypt)
        # One look at what is nearly always right: each check by itself would cost as much as packing the entry.
        if not (
            type(text) is type(aad) is type(iv) is type(tag) is bytes
            and (len(iv), len(tag)) == _GCM_LENGTHS
            and type(key_id) is int
            and 0 <= key_id <= _MAX_KEY_ID
            and type(session) is FastPathSession
        ):
            key_id, text, aad, iv, tag = _gcm_arguments(decrypt, session, key_id, text, aad, iv, tag)
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
            if deliver is not None:
                return deliver(written, cqe)
            data, approved = bytes(written), bool(cqe.fips_approved)
            return AesOutput(data, approved) if decrypt else GcmSealed(data, cqe.tag, cqe.iv, approved)

        return self.submit_one(build, collect, timeout_s, own.held if own else None)

    def xts(
        self,
        session: FastPathSession,
        key_ids: tuple[int, int],
        tweak: bytes,
        data: bytes,
        *,
        decrypt: bool,
        timeout_s: float,
        data_unit_bytes: int = 0,
    ) -> AesOutput:
        """AES-256-XTS (IEEE 1619) without ciphertext stealing.

        Args:
            session: `Session.fast_path` of an open session.
            key_ids: data key and tweak key.
            tweak: 16 bytes, byte 0 first into the tweak encryption; data unit j uses the tweak plus j (little-endian).
            data: multiple of 16 bytes, at most 16 MiB.
            decrypt: direction.
            timeout_s: seconds.
            data_unit_bytes: 512, 4096 or 8192; 0: all data are one unit.

        Raises:
            AesCommandError: the device refused the command.
        """
        output: AesOutput = self.submit_xts(
            session, key_ids, tweak, data, decrypt=decrypt, timeout_s=timeout_s, data_unit_bytes=data_unit_bytes
        ).result()
        return output

    def submit_xts(
        self,
        session: FastPathSession,
        key_ids: tuple[int, int],
        tweak: bytes,
        data: bytes | memoryview,
        *,
        decrypt: bool,
        timeout_s: float,
        data_unit_bytes: int = 0,
        deliver: Deliver | None = None,
    ) -> Submission:
        """Submit one AES-XTS command; its result is an `AesOutput`, or with `deliver` what that makes of the data."""
        operation = "AES-XTS decryption" if flag("AES-XTS", "decrypt", decrypt) else "AES-XTS encryption"
        data, tweak = _text(operation, "data", data), octets(operation, "tweak", tweak, AES_BLOCK_BYTES)
        data_key, tweak_key = key_pair(operation, key_ids)
        data_unit_code = unit_code(operation, data_unit_bytes)
        check_session(operation, session)
        attr = aes_attr(Cipher.XTS, decrypt, data_unit_code)
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
            if deliver is not None:
                return deliver(written, cqe)
            return AesOutput(bytes(written), bool(cqe.fips_approved))

        return self.submit_one(build, collect, timeout_s, own.held if own else None)

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
