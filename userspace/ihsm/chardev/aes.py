# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES commands through a driver's node: each is an ioctl that returns when the device has answered (spec 02 A.7)."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol

from numpy import void
from numpy.typing import NDArray

from ihsm.arguments import seconds
from ihsm.chardev import records
from ihsm.chardev.failures import NOT_TOLD, aes_failure, unfinished_failure
from ihsm.chardev.node_file import NodeFile
from ihsm.chardev.records import Commands, Completion
from ihsm.driver.aes_commands import (
    AesCommands,
    Deliver,
    GcmArguments,
    XtsArguments,
    gcm_operation,
    gcm_result,
    xts_operation,
    xts_result,
)
from ihsm.driver.aes_status import check_status
from ihsm.driver.submission import Held, Pending
from ihsm.errors import ForkedError, IhsmError
from ihsm.fast_path import FastPathSession

THREADS: Final = 4
"""Batches that are with the driver together."""
BATCH_COMMANDS: Final = 256


class Node(Protocol):
    """What AES commands need of their device, see `ihsm.chardev.device`."""

    @property
    def uri(self) -> str:
        """Where it is."""

    def check(self, operation: str) -> None:
        """See that commands may be sent; what is raised says why not."""

    def check_life(self, operation: str) -> None:
        """See that the controller was not reset since keys were brought in; what is raised says that it was."""

    def file_of(self, session_id: int) -> NodeFile:
        """The file of a session."""


class Deferred:
    """A command that the one who waits for it carries out: nothing is gained by another thread."""

    def __init__(self, run: Callable[[], Any]) -> None:
        """`run` gives the result, and is called once."""
        self._run = run

    def result(self) -> Any:
        """Carry it out; what it raises."""
        return self._run()

    async def awaited(self) -> Any:
        """The same in another thread, which goes on if whoever awaits it is cancelled."""
        import asyncio  # takes longer to load than the rest

        return await asyncio.to_thread(self._run)


class Started:
    """Commands that another thread carries out."""

    def __init__(self, future: Future[Any]) -> None:
        """`future` is the result's."""
        self._future = future
        self._error: IhsmError | None = None

    def result(self) -> Any:
        """Wait for them; what they raise."""
        if self._error is not None:
            raise self._error
        return self._future.result()

    async def awaited(self) -> Any:
        """The same, awaited."""
        import asyncio

        if self._error is not None:
            raise self._error
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def forked(self, error: IhsmError) -> None:
        """In a child of fork(): fail, for the thread is the parent's."""
        self._error = error


class NodeAes(AesCommands[Pending]):
    """The AES commands of a node. The driver has queues and picks one; its own time limit counts, and no other.

    A single command is sent when somebody waits for it, a batch at once, by a thread.
    """

    entries = BATCH_COMMANDS + 1

    def __init__(self, node: Node) -> None:
        """No thread is begun before the first batch."""
        self._node = node
        self._running: set[object] = set()
        """Batches, and single commands; additions and removals are atomic."""
        self._started: weakref.WeakSet[Started] = weakref.WeakSet()
        """Batches whose result somebody may want."""
        self._threads = ThreadPoolExecutor(THREADS, "ihsm-node")

    @property
    def outstanding(self) -> int:
        """Commands and batches that are with the driver, or wait for a thread."""
        return len(self._running)

    def _send_gcm(
        self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> Deferred:
        operation = gcm_operation(decrypt)
        commands, text = records.gcm_command(session, command, decrypt)

        def run() -> Any:
            completion = self._perform_one(operation, commands, session)
            return gcm_result(text.data, completion, decrypt, deliver)

        return Deferred(run)

    def _send_xts(
        self, session: FastPathSession, command: XtsArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> Deferred:
        operation = xts_operation(decrypt)
        commands, data = records.xts_command(session, command, decrypt)

        def run() -> Any:
            return xts_result(data.data, self._perform_one(operation, commands, session), deliver)

        return Deferred(run)

    def submit(
        self,
        entries: NDArray[void],
        timeout_s: float,
        held: Held | None = None,
        session: FastPathSession | None = None,
    ) -> Started:
        """A batch of entries, see `AesCommands.submit`: one after the other, beside other batches.

        Their addresses are those of `NodeMemory`, or of any memory of this process that stays where it is.
        """
        try:
            seconds("AES batch", "timeout_s", timeout_s)
            if session is not None:
                session.check()
            self._node.check("AES batch")
            commands = records.batch(entries, held)
            return self._start(commands, held)
        except BaseException:
            if held is not None:
                held.release()
            raise

    def _start(self, commands: Commands, held: Held | None) -> Started:
        mark = object()

        def run() -> NDArray[void]:
            try:
                self._perform("AES batch", commands)
                return commands.completions()
            finally:
                self._running.discard(mark)
                if held is not None:
                    held.release()

        self._running.add(mark)
        try:
            started = Started(self._threads.submit(run))
            self._started.add(started)
            return started
        except BaseException:
            self._running.discard(mark)
            raise

    def _perform_one(self, operation: str, commands: Commands, session: FastPathSession) -> Completion:
        """Carry out a single command; its completion, if it is a success."""
        session.check()
        mark = object()
        self._running.add(mark)
        try:
            self._perform(operation, commands)
        finally:
            self._running.discard(mark)
        completion = Completion.of(commands)
        check_status(completion.psf, completion.err)
        return completion

    def _perform(self, operation: str, commands: Commands) -> None:
        """Have the device answer all of them; what it answers is looked at by the caller.

        Raises:
            SessionClosedError: the session is not open, or is another program's.
            ControllerLostError: somebody reset the controller, so that key numbers may mean other keys.
            ControllerNotReadyError, QueueClosedError, QueueProtocolError: the driver has no answer.
            ArgumentError, RequestRefusedError, ResourceError: it refuses the command.
        """
        images = commands.records.view("u1").reshape(len(commands.records), commands.records.itemsize)
        for position, image in enumerate(images):
            record = commands.records[position]
            self._node.check(operation)
            file = self._node.file_of(int(record["session_id"]))
            record["extended_status"] = NOT_TOLD
            try:
                if file.ioctl(commands.number, image.data):
                    raise OSError(errno.EFAULT, "the answer could not be copied")
            except OSError as error:
                raise aes_failure(f"{self._node.uri}: {operation}", error, int(record["extended_status"])) from None
            failure = unfinished_failure(
                f"{self._node.uri}: {operation}", int(record["result"]), int(record["extended_status"])
            )
            if failure is not None:
                raise failure
        self._node.check_life(operation)

    def end(self) -> None:
        """No further batches; those that were begun go on."""
        self._threads.shutdown(wait=False)

    def forked(self) -> None:
        """In a child of fork(): threads, and locks that they held, are the parent's."""
        self._running = set()
        self._threads = ThreadPoolExecutor(THREADS)
        started, self._started = list(self._started), weakref.WeakSet()
        for each in started:
            each.forked(ForkedError(f"{self._node.uri}: wait for a batch"))
