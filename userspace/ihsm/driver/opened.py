# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device that is open, whichever way it is reached: what its users need of a controller of ours, or of a node."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ihsm.driver.aes_commands import AesCommands
from ihsm.driver.hsm_queue import HsmReply
from ihsm.driver.options import DriverOptions
from ihsm.driver.submission import Held, Submitted
from ihsm.errors import IhsmError
from ihsm_abi.hsm_queue import ControlKind


class Buffer(Held, Protocol):
    """Memory that the device reaches."""

    view: NDArray[np.uint8]

    @property
    def iova(self) -> int:
        """Where it lies for prepared entries, see `ihsm.driver.aes_batch`."""


class Allocator(Protocol):
    """Where buffers come from."""

    def allocate(self, size_bytes: int, alignment: int = ...) -> Buffer:
        """A buffer; errors as `DmaArena.allocate`."""


class OpenDevice(Protocol):
    """A device that can be used: `Controller`, or `ihsm.chardev.NodeDevice`. Any thread may use it.

    It is an `AsyncTransport` of `ihsm.ddi`.
    """

    options: DriverOptions

    @property
    def uri(self) -> str:
        """Where it is."""

    @property
    def outlives_us(self) -> bool:
        """Whether the partition stays as it is after `close`, with the keys in it; others may be using it, too."""

    @property
    def aes_queues(self) -> Sequence[AesCommands[Submitted]]:
        """Where AES commands go; none if it takes none."""

    @property
    def buffers(self) -> Allocator:
        """Memory for data of AES commands, however much."""

    @property
    def free_bytes(self) -> int:
        """How much `allocate` has."""

    def allocate(self, size_bytes: int, alignment: int = ...) -> Buffer:
        """Memory that is there from the start."""

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        """Execute one HSM command and wait for its response.

        Args:
            message: encoded DDI request.
            kind: session control kind of its operation.
            session_id: id that the command is sent under, None if it has none.

        Raises:
            HsmCommandError: completed without a response (`sc` not 0).
            DriverError, BusError: it was not carried out, or nobody knows whether it was.
            ForkedError: the device is the parent's.
        """

    async def exchange_async(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        """The same, without keeping the event loop from anything else."""

    def flush_session(self, session_id: int) -> object:
        """Close a session without a message, as a driver does for a client that vanished (spec 02 B.5)."""

    def stop(self, error: IhsmError) -> None:
        """Have all commands fail with `error`, until `recover`."""

    def recover(self) -> None:
        """Have a device that was lost work again, as far as that is ours to do; its sessions and keys may be gone.

        Raises:
            DriverError, BusError: it does not.
        """

    def reset(self, *, subsystem: bool = False) -> None:
        """Have the controller brought up anew: whoever has commands with it sees them fail.

        Args:
            subsystem: NSSR instead of a disable; the sessions of the function end (spec 04 §12).
        """

    def close(self) -> None:
        """Let go of it; harmless the second time."""

    def __enter__(self) -> Self:
        """The device itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
