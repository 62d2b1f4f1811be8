# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-256-GCM over arrays of messages of one length: batches go to all AES queues, each with one doorbell."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.api.errors import NonceRefusedError, TagMismatchError
from ihsm.api.steps import Completed, CurrentLink, Link, Procedure
from ihsm.ddi import Key
from ihsm.driver import AesCommands, Submitted
from ihsm.driver.aes_batch import check, failed, gcm_entries
from ihsm.driver.aes_commands import pad_aad
from ihsm.errors import AuthenticationFailedError
from ihsm_abi.aes_queue import GCM_IV_BYTES, GCM_TAG_BYTES

BATCH_BYTES: Final = 1 << 19
"""Data of a batch, unless one message has more: two of them are what a core's second-level cache holds."""
MIN_BATCH: Final = 64
"""Messages that are not divided among queues: the second batch would cost more than it saves."""
MAX_LANES: Final = 8
MAX_LANES_BYTES: Final = 1 << 25
_ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Messages:
    """What shall be done with which messages, checked."""

    operation: str
    nonces: NDArray[np.uint8]
    texts: NDArray[np.uint8]
    aad: bytes
    tags: NDArray[np.uint8] | None
    """Of a decryption."""

    def use(self, key: Key) -> Procedure[NDArray[np.uint8]]:
        """Do it with a key in the device; errors as `AesGcmKey.encrypt_many` and `decrypt_many`."""
        link: Link = yield CurrentLink()
        count, size = self.texts.shape
        result = np.empty((count, size if self.tags is not None else size + GCM_TAG_BYTES), np.uint8)
        mismatches: list[int] = []
        lanes = _lanes(self, link, key) if count else []
        idle, busy = deque(lanes), deque[_Lane]()
        start = 0
        try:
            while start < count or busy:
                if start < count and idle:
                    lane = idle.popleft()
                    start = lane.begin(start)
                    busy.append(lane)
                else:
                    lane = busy.popleft()
                    mismatches += lane.end((yield Completed(lane.submission)), result)
                    idle.append(lane)
        finally:
            for lane in lanes:
                lane.close()
        if mismatches:
            raise TagMismatchError(self.operation, _named(mismatches), tuple(mismatches))
        return result


class _Lane:
    """Memory and prepared entries for one batch after the other, on one queue."""

    def __init__(
        self, messages: Messages, link: Link, key: Key, queue: AesCommands[Submitted], capacity: int, stride: int
    ) -> None:
        """For up to `capacity` messages, each with `stride` bytes of memory."""
        self._messages = messages
        self._queue = queue
        self._session = link.session.fast_path
        self._timeout_s = link.device.options.timeout_s
        self._padded = pad_aad(messages.aad)
        decrypt = messages.tags is not None
        self._memory = link.device.buffers.allocate(capacity * stride, _ALIGNMENT)
        self._lock = threading.Lock()
        self._closed = False
        self._in_use = False
        try:
            places = self._memory.iova + stride * np.arange(capacity, dtype=np.uint64)
            self._entries = gcm_entries(
                self._session,
                key.bulk_key_id,  # type: ignore[arg-type]
                places,
                places,  # in place
                messages.texts.shape[1],
                decrypt=decrypt,
                aad_bytes=len(messages.aad),
                ivs=np.zeros(GCM_IV_BYTES, np.uint8) if decrypt else None,
                tags=np.zeros(GCM_TAG_BYTES, np.uint8) if decrypt else None,
            )
        except BaseException:
            self._memory.release()
            raise
        self._rows = self._memory.view.reshape(capacity, stride)
        self._start = 0

    def begin(self, start: int) -> int:
        """Submit what comes from message `start` on; the number of the first message after it."""
        messages, skip = self._messages, len(self._padded)
        end = min(start + len(self._entries), len(messages.texts))
        entries, rows = self._entries[: end - start], self._rows[: end - start]
        entries["iv"] = messages.nonces[start:end]
        if messages.tags is not None:
            entries["tag"] = messages.tags[start:end]
        rows[:, :skip] = np.frombuffer(self._padded, np.uint8)
        rows[:, skip : skip + messages.texts.shape[1]] = messages.texts[start:end]
        self._start = start
        self._in_use = True
        self.submission: Submitted = self._queue.submit(entries, self._timeout_s, self, self._session)
        return end

    def end(self, completions: NDArray[np.void], result: NDArray[np.uint8]) -> list[int]:
        """Take what was submitted into the result; the numbers of the messages whose tags do not match."""
        messages, skip, size = self._messages, len(self._padded), self._messages.texts.shape[1]
        part = slice(self._start, self._start + len(completions))
        mismatches: list[int] = []
        for index in failed(completions).tolist():
            try:
                check(completions, index)
            except AuthenticationFailedError:
                mismatches.append(self._start + index)
        if messages.tags is None:
            if not np.array_equal(completions["iv"], messages.nonces[part]):
                raise NonceRefusedError(messages.operation)
            result[part, size:] = completions["tag"]
        result[part, :size] = self._rows[: len(completions), skip : skip + size]
        return mismatches

    def release(self) -> None:
        """The device no longer uses the memory: called by the queue."""
        with self._lock:
            self._in_use = False
            closed = self._closed
        if closed:
            self._memory.release()

    def close(self) -> None:
        """Give the memory back, now or as soon as the device no longer uses it."""
        with self._lock:
            self._closed = True
            in_use = self._in_use
        if not in_use:
            self._memory.release()


def repeated(nonces: NDArray[np.uint8]) -> bool:
    """Whether two of them are the same."""
    count, whole = len(nonces), np.ascontiguousarray(nonces)
    for part in (whole[:, -8:], whole[:, :8]):  # each alone settles nearly all cases, and sorts fast
        if len(np.unique(np.ascontiguousarray(part).view(np.uint64))) == count:
            return False
    return len(np.unique(whole.view(f"V{GCM_IV_BYTES}"))) < count


def _lanes(messages: Messages, link: Link, key: Key) -> list[_Lane]:
    queues = link.aes_queues
    count, size = messages.texts.shape
    stride = -(-max(len(pad_aad(messages.aad)) + size, 1) // _ALIGNMENT) * _ALIGNMENT
    room = min(queue.entries - 1 for queue in queues)
    wanted = min(max(len(queues), 2), MAX_LANES)  # with one queue two batches: one is copied while one is worked on
    capacity = min(
        max(1, room // -(-wanted // len(queues))),
        max(1, BATCH_BYTES // stride),
        max(MIN_BATCH, -(-count // wanted)),
        count,
    )
    number = max(1, min(wanted, -(-count // capacity), MAX_LANES_BYTES // (capacity * stride)))
    lanes: list[_Lane] = []
    try:
        for turn in range(number):
            lanes.append(_Lane(messages, link, key, queues[turn % len(queues)], capacity, stride))
    except BaseException:
        for lane in lanes:
            lane.close()
        raise
    return lanes


def _named(indices: list[int]) -> str:
    shown = ", ".join(map(str, indices[:10]))
    more = f" and {len(indices) - 10} more" if len(indices) > 10 else ""
    return f"tags do not match: message{'s' if len(indices) > 1 else ''} {shown}{more}"
