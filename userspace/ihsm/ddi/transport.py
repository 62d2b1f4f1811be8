# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How the typed client reaches an HSM queue. The driver implements it; tests replay recordings through it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ihsm_abi.hsm_queue import ControlKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy import uint8
    from numpy.typing import NDArray

    from ihsm.replies import Replies


class Reply(Protocol):
    """What came back: the response message and the session fields of the completion (spec 02 B.2)."""

    @property
    def message(self) -> bytes:
        """The response."""

    @property
    def session_id(self) -> int | None:
        """Session id, None unless the completion marks it valid."""

    @property
    def short_app_id(self) -> int | None:
        """Short application id, None unless the completion marks it valid."""

    @property
    def session_closed(self) -> bool:
        """Whether the command ended its session."""


class Transport(Protocol):
    """One HSM queue, or anything that behaves as one."""

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> Reply:
        """Execute one command: its request, its session control kind and its session id, if it has one.

        Raises:
            ihsm.errors.IhsmError: the command failed below the message layer; there is no response.
        """


@runtime_checkable
class ArrayTransport(Transport, Protocol):
    """A transport that takes many commands together, with and without `await`."""

    def exchange_many(
        self,
        messages: NDArray[uint8],
        kind: ControlKind,
        session_id: int | None,
        response_bytes: int,
        *,
        check: Callable[[], object] | None = None,
    ) -> Replies:
        """Execute commands whose requests have the same length: `messages` has the shape (n, length).

        Args as `exchange`; `response_bytes` is the room for each response, and `check` raises an IhsmError when no more
        of them may be sent. What one of them raises is in the result.
        """

    async def exchange_many_async(
        self,
        messages: NDArray[uint8],
        kind: ControlKind,
        session_id: int | None,
        response_bytes: int,
        *,
        check: Callable[[], object] | None = None,
    ) -> Replies:
        """The same, without keeping the event loop from anything else."""


@runtime_checkable
class AsyncTransport(Transport, Protocol):
    """A transport that coroutines can use, too."""

    async def exchange_async(self, message: bytes, kind: ControlKind, session_id: int | None) -> Reply:
        """Like `exchange`, without keeping the event loop from anything else."""
