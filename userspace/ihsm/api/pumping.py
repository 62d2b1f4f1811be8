# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Chunks of a file through the AES queues: read into DMA memory, sealed or opened there, written from there.

A window is some chunks that are submitted together. While one is being filled or written, the device has the others;
they take the AES queues in turn.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ihsm.api.errors import NonceRefusedError, TagMismatchError
from ihsm.api.file_format import CHUNK_BYTES, HEADER_BYTES, MAX_CHUNKS, RECORD_BYTES, TAG_BYTES, FileFormatError, Header
from ihsm.api.steps import Link
from ihsm.driver import OpenDevice, Submitted
from ihsm.driver.aes_batch import check, failed, gcm_entries
from ihsm.errors import ArenaFullError, ArgumentError, AuthenticationFailedError, IhsmError
from ihsm_abi.aes_queue import GCM_IV_BYTES

WINDOWS: Final = 3
MOST_CHUNKS: Final = 32
"""In a window; what it costs to submit one and to wait for it is small then."""
FAST_BUFFER_BYTES: Final = 24 << 20
"""`DriverOptions.buffer_bytes` with which all windows are that large; with less memory they are smaller."""
_SHARE: Final = 0.5
"""Of the memory that is free; others may want some, too."""
_STRIDE: Final = -(-(HEADER_BYTES + RECORD_BYTES) // 64) * 64
"""From one chunk to the next in DMA memory: header, as associated data; text; room for the tag."""
_TEXT_END: Final = HEADER_BYTES + CHUNK_BYTES


class Source(Protocol):
    """What is read: a binary file, or anything that has its `readinto`."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a part of the buffer; 0 at the end."""


class Sink(Protocol):
    """What is written to: a binary file, or anything that has its `write`."""

    def write(self, data: Any, /) -> Any:
        """Write all bytes, or as many as returned."""


def write_all(sink: Sink, data: bytes | memoryview) -> None:
    """Write, again and again if the sink takes only a part, as an unbuffered file may."""
    rest = memoryview(data)
    while rest:
        count = sink.write(rest)
        rest = rest[count:] if isinstance(count, int) else rest[:0]


class Reading:
    """A source that is asked for whole chunks, and whether there is more."""

    def __init__(self, source: Source) -> None:
        """Nothing is read yet."""
        self._source = source
        self._ahead = bytearray(1)
        self._has_ahead = False

    def fill(self, view: memoryview) -> int:
        """Fill the view, or as much of it as the source still has; how many bytes that was."""
        filled = 0
        if self._has_ahead:
            view[0] = self._ahead[0]
            self._has_ahead = False
            filled = 1
        while filled < len(view) and (count := self._source.readinto(view[filled:])):
            filled += count
        return filled

    def is_over(self) -> bool:
        """Whether there is nothing more."""
        if not self._has_ahead:
            self._has_ahead = bool(self._source.readinto(self._ahead))
        return not self._has_ahead


class _Window:
    """Some chunks in DMA memory."""

    def __init__(self, device: OpenDevice, chunks: int, header: Header) -> None:
        half = chunks * _STRIDE
        self.buffer = device.allocate(2 * half)
        self.source = self.buffer.view[:half].reshape(chunks, _STRIDE)
        self.target = self.buffer.view[half:].reshape(chunks, _STRIDE)
        self.source[:, :HEADER_BYTES] = np.frombuffer(header.encode(), np.uint8)
        offsets = np.arange(chunks, dtype=np.uint64) * np.uint64(_STRIDE)
        self.sources = np.uint64(self.buffer.iova) + offsets
        self.targets = self.sources + np.uint64(half)
        self.entries: NDArray[np.void] | None = None
        """Prepared commands of full chunks, good for one session."""
        self.submission: Submitted | None = None
        self.first = 0
        """Number of the first chunk."""
        self.texts: list[int] = []
        """Bytes of text in each chunk."""
        self.last = False
        """Whether its last chunk is the file's."""
        self.nonces: NDArray[np.uint8] = np.empty((0, GCM_IV_BYTES), np.uint8)

    def take_over(self, other: _Window) -> None:
        """Have the same input as another window, whose device is gone."""
        self.source[: len(other.texts)] = other.source[: len(other.texts)]
        self.first, self.texts, self.last, self.nonces = other.first, other.texts, other.last, other.nonces


class Pump:
    """Everything that a source has, through the device, into a sink."""

    def __init__(self, header: Header, source: Reading, sink: Sink, *, decrypt: bool) -> None:
        """Nothing is read yet."""
        self.text_bytes = 0
        """Of the chunks that were written."""
        self._header = header
        self._source = source
        self._sink = sink
        self._decrypt = decrypt
        self._link: Link | None = None
        self._windows: list[_Window] = []
        self._free: list[_Window] = []
        self._pending: deque[_Window] = deque()
        """Submitted, in the order of the file."""
        self._chunks = 0
        self._next_chunk = 0
        self._over = False

    def run(self, link: Link, key_id: int) -> None:
        """Do it all; after the device was lost, the rest of it with the device as it is now.

        Raises:
            TagMismatchError, FileFormatError, NonceRefusedError: see `ihsm.api.files`.
            IhsmError: the device failed, or was lost.
            OSError: source or sink failed.
        """
        if link is not self._link:
            self._move(link)
            for window in self._pending:
                self._submit(window, link, key_id)
        while True:
            while self._free and not self._over:
                self._fill(self._free[-1])
                # Before it is submitted: what was read must not be forgotten if the device is lost just then.
                self._pending.append(self._free.pop())
                self._submit(self._pending[-1], link, key_id)
            if not self._pending:
                return
            window = self._pending[0]
            completions = window.submission.result()  # type: ignore[union-attr]
            self._check(window, completions)
            window.submission = None
            self._pending.popleft()  # now that nothing can be lost any more
            self._write(window, completions)
            self._free.append(window)

    def release(self) -> None:
        """Give the DMA memory back, once the device is done with it."""
        for window in self._windows:
            with contextlib.suppress(IhsmError):  # the device may still write there: it stays taken until the end
                if window.submission is not None:
                    window.submission.result()
                window.buffer.release()

    def _move(self, link: Link) -> None:
        """Windows for a link; what the windows of another one still had to do goes on in these."""
        if self._link is None or link.device is not self._link.device:
            old = list(self._pending)
            self._windows = self._new_windows(link.device)
            self._free = list(self._windows)
            self._pending.clear()
            for window in old:
                new = self._free.pop()
                new.take_over(window)
                self._pending.append(new)
        for window in self._windows:
            window.entries = window.submission = None
        self._link = link

    def _new_windows(self, device: OpenDevice) -> list[_Window]:
        """Windows of as many chunks as there is memory for, and later of as many as before."""
        before = self._chunks
        room = int(device.free_bytes * _SHARE) // (2 * WINDOWS * _STRIDE)
        self._chunks = before or min(max(room, 1), MOST_CHUNKS)
        while True:
            windows: list[_Window] = []
            try:
                for _ in range(WINDOWS):
                    windows.append(_Window(device, self._chunks, self._header))
                return windows
            except ArenaFullError:
                for window in windows:
                    window.buffer.release()
                if before or self._chunks == 1:
                    raise
                self._chunks //= 2

    def _fill(self, window: _Window) -> None:
        """Read the next chunks of the file."""
        size, floor = (RECORD_BYTES, TAG_BYTES) if self._decrypt else (CHUNK_BYTES, 0)
        window.first, window.texts, window.last = self._next_chunk, [], False
        while len(window.texts) < len(window.source):
            view = window.source[len(window.texts), HEADER_BYTES : HEADER_BYTES + size].data
            count = self._source.fill(view)
            first = window.first + len(window.texts) == 0
            if not count and window.texts:
                break
            if count < floor or (count == floor and not first):
                raise FileFormatError("decrypt: the input ends within a chunk: it was cut")
            window.texts.append(count - floor)
            if count < size:
                break
        window.last = window.texts[-1] + floor < size or self._source.is_over()
        window.nonces = self._header.nonces(window.first, len(window.texts), last=window.last)
        self._over = window.last
        self._next_chunk += len(window.texts)
        if self._next_chunk > MAX_CHUNKS:
            raise ArgumentError("encrypt", "source", f"longer than {MAX_CHUNKS * CHUNK_BYTES} bytes")

    def _submit(self, window: _Window, link: Link, key_id: int) -> None:
        count = len(window.texts)
        if window.entries is None:
            window.entries = self._entries(link, key_id, window, slice(None), CHUNK_BYTES)
        entries = window.entries[:count]
        entries["iv"] = window.nonces
        if self._decrypt:
            entries["tag"] = window.source[:count, _TEXT_END : _TEXT_END + TAG_BYTES]
        if window.texts[-1] < CHUNK_BYTES:
            entries = entries.copy()
            short = self._entries(link, key_id, window, slice(count - 1, count), window.texts[-1])
            short["iv"] = entries["iv"][-1:]
            if self._decrypt:
                short["tag"] = self._tag_place(window.source, window)
            entries[-1:] = short
        window.submission = link.aes_queue().submit(entries, link.device.options.timeout_s)

    def _entries(self, link: Link, key_id: int, window: _Window, rows: slice, size: int) -> NDArray[np.void]:
        """Commands without nonces and tags, which each submission puts in."""
        sources, targets = window.sources[rows], window.targets[rows]
        blank = np.zeros((len(sources), GCM_IV_BYTES), np.uint8), np.zeros((len(sources), TAG_BYTES), np.uint8)
        ivs, tags = blank if self._decrypt else (None, None)
        return gcm_entries(
            link.session.fast_path,
            key_id,
            sources,
            targets,
            size,
            decrypt=self._decrypt,
            aad_bytes=HEADER_BYTES,
            ivs=ivs,
            tags=tags,
        )

    @staticmethod
    def _tag_place(rows: NDArray[np.uint8], window: _Window) -> NDArray[np.uint8]:
        """Where the tag of a window's last chunk stands: right behind its text."""
        end = HEADER_BYTES + window.texts[-1]
        return rows[len(window.texts) - 1, end : end + TAG_BYTES]

    def _check(self, window: _Window, completions: NDArray[np.void]) -> None:
        """See that the device did what was asked, before anything of it is written."""
        bad = failed(completions)
        if len(bad):
            try:
                check(completions, bad[0])
            except AuthenticationFailedError:
                chunk = window.first + int(bad[0]) + 1
                raise TagMismatchError(
                    "decrypt", f"chunk {chunk} does not verify: the input was changed, cut or extended"
                ) from None
        if not self._decrypt and (completions["iv"] != window.nonces).any():
            raise NonceRefusedError("encrypt")

    def _write(self, window: _Window, completions: NDArray[np.void]) -> None:
        count = len(window.texts)
        if not self._decrypt:
            window.target[:count, _TEXT_END : _TEXT_END + TAG_BYTES] = completions["tag"]
            self._tag_place(window.target, window)[:] = completions["tag"][-1]
        extra = 0 if self._decrypt else TAG_BYTES
        for row, size in zip(window.target, window.texts, strict=False):
            write_all(self._sink, row[HEADER_BYTES : HEADER_BYTES + size + extra].data)
            self.text_bytes += size


@dataclass(frozen=True, slots=True)
class Pumping:
    """A step: a pump's whole work, or what is left of it."""

    pump: Pump
    key_id: int

    def perform(self, link: Link) -> None:
        """Do it."""
        self.pump.run(link, self.key_id)

    async def perform_async(self, link: Link) -> None:
        """The same in a thread: sources and sinks block."""
        import asyncio

        await asyncio.to_thread(self.pump.run, link, self.key_id)
