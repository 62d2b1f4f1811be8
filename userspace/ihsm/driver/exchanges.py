# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM commands of a controller: its queues take them in turn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ihsm.arguments import seconds
from ihsm.driver.buffers import Buffers
from ihsm.driver.hsm_queue import HsmQueue, HsmReply, reply_of, successful
from ihsm.driver.message_arrays import Check, Messages, exchange_parts, exchange_parts_async
from ihsm.driver.options import DriverOptions
from ihsm.driver.submission import Submission
from ihsm.replies import Replies
from ihsm_abi.hsm_queue import ControlKind

if TYPE_CHECKING:
    from concurrent.futures import Future


class Exchanges:
    """What a controller does with messages. Methods may be called from any thread."""

    options: DriverOptions
    hsm_queues: list[HsmQueue]
    buffers: Buffers
    _round: itertools.cycle[HsmQueue]

    def _begin_round(self) -> None:
        """The queues are there, and none comes later."""
        self._round = itertools.cycle(self.hsm_queues)

    def exchange(
        self, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
    ) -> HsmReply:
        """Execute one HSM command and wait for its response.

        Args:
            message: encoded DDI request.
            kind: session control kind of its operation.
            session_id: id that the command is sent under, None if it has none.
            timeout_s: seconds; None: the driver's option.

        Raises:
            HsmCommandError: completed without a response (`sc` not 0).
            CommandTimeoutError: no completion, or no room in the ring, in time.
            QueueClosedError: reset or closed meanwhile.
            BusError: the device is gone.
            ForkedError: it is the parent's.
        """
        return self._hsm_queue().exchange_message(message, kind, session_id, timeout_s=self._limit_s(timeout_s))

    def submit(
        self, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
    ) -> Future[HsmReply]:
        """Like `exchange`, but returns at once; the reply's `sc` is not checked."""
        limit_s = self._limit_s(timeout_s)
        return self._hsm_queue().submit_message(message, kind, session_id, timeout_s=limit_s).future()

    async def exchange_async(
        self, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
    ) -> HsmReply:
        """Like `exchange`, awaited: with all rings full the command waits its turn, and the event loop goes on.

        Whoever is cancelled while awaiting it leaves the command to complete by itself.
        """
        return successful(await self.submit_async(message, kind, session_id, timeout_s=timeout_s))

    async def submit_async(
        self, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
    ) -> HsmReply:
        """Like `exchange_async`; the reply's `sc` is not checked."""
        from ihsm.driver.line_up import performed_by_any  # asyncio takes longer to load than the rest of the driver

        def submit(queue: HsmQueue, left_s: float) -> Submission:
            return queue.submit_message(message, kind, session_id, timeout_s=left_s)

        reply: HsmReply = await performed_by_any(self, self._hsm_queues_in_turn, submit, self._limit_s(timeout_s))
        return reply

    def exchange_many(
        self,
        messages: NDArray[np.uint8],
        kind: ControlKind,
        session_id: int | None,
        response_bytes: int,
        *,
        timeout_s: float | None = None,
        check: Check | None = None,
    ) -> Replies:
        """Execute many HSM commands, whose requests have the same length, and wait for all; up to 256 are outstanding.

        That many need rings of that size: `DriverOptions(hsm_entries=257)`, for one queue.

        Args:
            messages: encoded requests, uint8 array of shape (n, length), at most a page long.
            kind: session control kind of their operation.
            session_id: id that the commands are sent under, None if they have none.
            response_bytes: room for each response, 1 to a page.
            timeout_s: seconds for each part of them; None: the driver's option.
            check: asked before each part is sent; raises what those fail with that have not been sent.

        Returns:
            Responses, and the error of each command without one: those of `exchange`.

        Raises:
            ArgumentError, ArgumentTypeError: nothing was sent.
        """
        sent = Messages(messages, kind, session_id, response_bytes, self.buffers, check)
        exchange_parts(sent, self._hsm_queue, self._checked_limit_s(timeout_s))
        return sent.replies

    async def exchange_many_async(
        self,
        messages: NDArray[np.uint8],
        kind: ControlKind,
        session_id: int | None,
        response_bytes: int,
        *,
        timeout_s: float | None = None,
        check: Check | None = None,
    ) -> Replies:
        """Like `exchange_many`, awaited: with all rings full the commands wait their turn, and the event loop goes on.

        Whoever is cancelled while awaiting it leaves those that were sent to complete by themselves.
        """
        sent = Messages(messages, kind, session_id, response_bytes, self.buffers, check)
        await exchange_parts_async(sent, self, self._hsm_queues_in_turn, self._checked_limit_s(timeout_s))
        return sent.replies

    def _limit_s(self, timeout_s: float | None) -> float:
        return self.options.timeout_s if timeout_s is None else timeout_s

    def _checked_limit_s(self, timeout_s: float | None) -> float:
        return seconds("Controller", "timeout_s", self._limit_s(timeout_s))

    def flush_session(self, session_id: int) -> HsmReply:
        """Close a session without a message, as a driver does for a client that vanished (spec 02 B.5)."""
        limit_s = self.options.timeout_s
        return reply_of(self._hsm_queue().submit_flush(session_id, timeout_s=limit_s))

    @property
    def has_room(self) -> bool:
        """Whether an HSM command would be accepted without waiting."""
        return any(queue.has_room for queue in self.hsm_queues)

    def _hsm_queue(self) -> HsmQueue:
        """The next queue with room, else simply the next one."""
        first = next(self._round)
        if first.has_room:
            return first
        return next((queue for queue in self.hsm_queues if queue.has_room), first)

    def _hsm_queues_in_turn(self) -> Sequence[HsmQueue]:
        """All of them, another one first each time."""
        first = self.hsm_queues.index(next(self._round))
        return self.hsm_queues[first:] + self.hsm_queues[:first]
