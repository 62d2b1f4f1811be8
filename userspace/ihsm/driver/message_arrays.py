# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Many HSM commands from an array of messages: in parts, each written into a ring, and read from it, as arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm.arguments import integer
from ihsm.driver.buffers import Buffers
from ihsm.driver.hsm_queue import HsmQueue, reply_from, session_arguments, successful
from ihsm.driver.rings import HSM_RING
from ihsm.driver.submission import Submission
from ihsm.errors import ArgumentError, ArgumentTypeError, IhsmError
from ihsm.replies import Replies
from ihsm_abi.admin import Psf
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import PAGE_BYTES

OUTSTANDING: Final = 256
"""Commands of one array that are with the device together, as far as the rings have room."""
PART: Final = 64
"""Commands that are written together, with one doorbell."""

_OPERATION: Final = "HSM commands"

Check = Callable[[], object]
"""Raises an IhsmError when nothing more may be sent."""


class Messages:
    """Requests of one kind, of one length, and what becomes of them."""

    def __init__(
        self,
        rows: NDArray[np.uint8],
        kind: ControlKind,
        session_id: int | None,
        response_bytes: int,
        buffers: Buffers,
        check: Check | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            rows: encoded requests, uint8 array of shape (n, length), a page long at most.
            kind: session control kind of their operation.
            session_id: id that they are sent under, None if they have none.
            response_bytes: room for each response, a page at most.
            buffers: where they lie for the device, two pages each.
            check: raises an IhsmError when no more of them may be sent, asked before each part.

        Raises:
            ArgumentError, ArgumentTypeError: another array, kind, id or room.
        """
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8:
            raise ArgumentTypeError(_OPERATION, "messages", "an array of bytes (uint8) needed")
        if rows.ndim != 2 or not 1 <= rows.shape[1] <= PAGE_BYTES:
            raise ArgumentError(_OPERATION, "messages", f"shape {rows.shape}, (n, 1 to {PAGE_BYTES}) needed")
        self._session_id, self._flags = session_arguments(kind, session_id)
        self._room = integer(_OPERATION, "response_bytes", response_bytes, 1, PAGE_BYTES)
        self._rows = rows
        self._buffers = buffers
        self.check: Check = check or (lambda: None)
        self.replies = Replies.none_yet(len(rows), self._room)
        """What has come of them so far."""

    def parts(self, size: int) -> Iterator[MessagePart]:
        """All of them, up to `size` together; each part takes memory only when it is submitted."""
        for start in range(0, len(self._rows), size):
            yield MessagePart(self, start, min(start + size, len(self._rows)))

    def allocated(self, count: int) -> Any:
        """Memory for a part."""
        return self._buffers.allocate(2 * count * PAGE_BYTES, PAGE_BYTES)

    def entries(self, start: int, stop: int, memory: Any) -> NDArray[np.void]:
        """Entries of a part, whose requests now lie in its memory: two pages for each, the second for its response."""
        count, length = stop - start, self._rows.shape[1]
        memory.view.reshape(count, 2, PAGE_BYTES)[:, 0, :length] = self._rows[start:stop]
        entries = np.zeros(count, HSM_RING.sqe)
        sources = np.uint64(memory.iova) + np.arange(count, dtype=np.uint64) * np.uint64(2 * PAGE_BYTES)
        entries["src_len"], entries["src_prp1"] = length, sources
        entries["dst_len"], entries["dst_prp1"] = self._room, sources + np.uint64(PAGE_BYTES)
        entries["control"] = self._flags
        entries["session_id"] = self._session_id or 0
        return entries

    def take(self, start: int, completions: NDArray[np.void], memory: Any, missing: IhsmError | None) -> None:
        """Read what has come of a part; commands that have no completion failed with `missing`."""
        replies, count = self.replies, len(completions)
        written = memory.view.reshape(count, 2, PAGE_BYTES)[:, 1, : self._room]
        lengths = np.minimum(completions["byte_count"], self._room).astype(np.int64)
        replies.messages[start : start + count] = written
        # Entries are numbered by their queue, and no queue has the number 0.
        absent = np.flatnonzero(completions["sqid"] == 0) if missing is not None else ()
        for position in absent:
            lengths[position] = 0
            assert missing is not None
            replies.errors[start + int(position)] = missing
        for position in np.flatnonzero(completions["psf"] > Psf.phase.mask):
            try:
                successful(reply_from(completions[position], written[position, : lengths[position]].tobytes()))
            except IhsmError as error:
                lengths[position] = 0
                replies.errors[start + int(position)] = error
        replies.lengths[start : start + count] = lengths

    def fail(self, start: int, stop: int, error: IhsmError) -> None:
        """Commands that have not been sent."""
        self.replies.errors.update(dict.fromkeys(range(start, stop), error))


class MessagePart:
    """Some of them, which are submitted together."""

    def __init__(self, messages: Messages, start: int, stop: int) -> None:
        """Those from `start` up to `stop`."""
        self.start = start
        self.count = stop - start
        self._messages = messages
        self._stop = stop
        self._memory: Any = None
        self._submission: Submission | None = None
        self._is_read = self._is_done = False

    def submit(self, queue: HsmQueue, timeout_s: float) -> Submission:
        """Submit them; errors as `QueuePair.submit`, ArenaFullError, and those of the messages' check."""
        self._messages.check()
        self._memory = self._messages.allocated(self.count)
        entries = self._messages.entries(self.start, self._stop, self._memory)
        self._submission = queue.submit(entries, timeout_s, held=self)
        return self._submission

    def release(self) -> None:
        """The device needs the memory no more; it goes when the responses have been read, too."""
        self._is_done = True
        self._let_go()

    def _let_go(self) -> None:
        if self._is_done and self._is_read and self._memory is not None:
            self._memory.release()

    @property
    def was_sent(self) -> bool:
        """Whether all of them were submitted."""
        return self._submission is not None

    def finish(self) -> None:
        """Wait for them, unless they have ended."""
        if self._is_read or self._submission is None:
            return
        try:
            self._submission.result()
        except IhsmError as error:
            self.end(error)
        else:
            self.end()

    def end(self, error: IhsmError | None = None) -> None:
        """Note what has come of them: they are complete, or have failed with `error`."""
        submission = self._submission
        try:
            if submission is None:
                assert error is not None
                self._messages.fail(self.start, self._stop, error)
                return
            with submission.queue.lock:  # what has failed may complete just now
                self._messages.take(self.start, submission.outcome, self._memory, error)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Nobody wants the responses any more."""
        self._is_read = True
        self._let_go()


def exchange_parts(messages: Messages, next_queue: Callable[[], HsmQueue], timeout_s: float) -> None:
    """Have all of them carried out, and wait."""
    waiting: deque[MessagePart] = deque()
    outstanding = 0
    failed: IhsmError | None = None
    try:
        for part in messages.parts(PART):
            while outstanding + part.count > OUTSTANDING:
                outstanding -= waiting[0].count
                waiting[0].finish()
                waiting.popleft()
            waiting.append(part)
            outstanding += part.count
            if failed is None:
                try:
                    part.submit(next_queue(), timeout_s)
                except IhsmError as error:
                    failed = error  # and so would those that follow, each after as long a wait
            if failed is not None:
                part.end(failed)
        for part in waiting:
            part.finish()
    finally:
        for part in waiting:
            part.abandon()


async def exchange_parts_async(
    messages: Messages, key: Hashable, queues_in_turn: Callable[[], Sequence[HsmQueue]], timeout_s: float
) -> None:
    """The same for coroutines, see `ihsm.driver.line_up.performed_by_any`."""
    import asyncio  # takes longer to load than the rest of the driver

    from ihsm.driver.line_up import performed_by_any

    # Room for a part has to come in one piece: with parts much smaller than the ring, the device has others meanwhile.
    size = min(PART, max(1, (min(queue.entries for queue in queues_in_turn()) - 1) // 4))
    places = asyncio.Semaphore(OUTSTANDING // size)
    failed: IhsmError | None = None

    async def carry_out(part: MessagePart) -> None:
        nonlocal failed
        async with places:
            error = failed
            try:
                if error is None:
                    await performed_by_any(key, queues_in_turn, part.submit, timeout_s, part.count)
            except IhsmError as found:
                error = found
                if not part.was_sent:
                    failed = found
            except BaseException:
                part.abandon()
                raise
            part.end(error)

    await asyncio.gather(*(carry_out(part) for part in messages.parts(size)))
