# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ready lists and AES worker threads in C (native/scheduler.h), shared by all functions of a process.

Admin and HSM commands are pulled by Python threads; AES commands never enter Python.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.commands import Command, CommandSource, Refusal, RingClass, Unreachable, UnreachableKind

SLOW_BACKLOG: Final = int(lib.IHSM_SLOW_BACKLOG)
"""Commands of one function that may wait for a slow thread: more than 65 queues of the driver's 16 slots can hold."""
_CLOSE_POLL_S: Final = 0.001
_PULLED: Final = int(lib.IHSM_PULL_COMMAND)
_HELD: Final = int(lib.IHSM_PULL_HELD)
_COMMAND: Final = struct.Struct("=QIIHH")
"""The numbers at the start of `struct ihsm_command`: engine, generation, bytes of the request, queue, command id."""
_SQE_OFFSET: Final = ffi.offsetof("struct ihsm_command", "sqe")
_REQUEST_OFFSET: Final = ffi.offsetof("struct ihsm_command", "request")
if _COMMAND.size != _SQE_OFFSET:
    raise ImportError("struct ihsm_command does not begin as _COMMAND says")


class _Puller:
    """What a thread needs to pull commands: a buffer that the library fills."""

    __slots__ = ("buffer", "bytes", "inside")

    def __init__(self) -> None:
        self.buffer = ffi.new("struct ihsm_command *")
        self.bytes = ffi.buffer(self.buffer)
        self.inside = False
        """Whether its thread is in `pull`."""


def _command(engine: CommandSource, ring: RingClass, puller: _Puller) -> Command:
    """The command that was pulled, out of the buffer."""
    _, generation, request_bytes, queue_id, cid = _COMMAND.unpack_from(puller.bytes)
    sqe = puller.bytes[_SQE_OFFSET:_REQUEST_OFFSET]
    request = puller.bytes[_REQUEST_OFFSET : _REQUEST_OFFSET + request_bytes]
    return Command(engine, ring, queue_id, generation, cid, sqe, request)


class Scheduler:
    """Ready lists and AES worker threads, shared by all functions of a process."""

    def __init__(self, *, aes_workers: int = 1, spin_us: float = 50.0) -> None:
        """`aes_workers` C threads serve the AES rings; they start with the first AES queue.

        If an engine has a doorbell page, one more thread watches the pages of all engines and serves AES rings too, so
        that no worker is needed then. It stays awake for `spin_us` microseconds after the last work (`math.inf`: for
        ever), then sleeps for at most 2 ms at a time.

        Raises:
            OSError: the system gives no more descriptors or memory.
        """
        if not 0 <= aes_workers <= 1024:
            raise ValueError(f"aes_workers: {aes_workers} is outside 0 to 1024")
        if not spin_us >= 0:
            raise ValueError(f"spin_us: {spin_us} is negative")
        handle = lib.ihsm_scheduler_new(aes_workers, -1 if math.isinf(spin_us) else int(spin_us))
        if handle == ffi.NULL:
            raise OSError(ffi.errno, os.strerror(ffi.errno))
        self._handle: _native.Pointer[_native.ihsm_scheduler] | None = handle
        self._engines: dict[int, weakref.ref[CommandSource]] = {}
        self._ids = itertools.count(1)
        self._local = threading.local()
        self._pullers: list[_Puller] = []
        self.closed = False

    @property
    def handle(self) -> _native.Pointer[_native.ihsm_scheduler]:
        """What C knows the scheduler by.

        Raises:
            ValueError: it is closed.
        """
        if self._handle is None:
            raise ValueError("the scheduler is closed")
        return self._handle

    def pull(self, ring: RingClass, timeout_s: float | None = None) -> Command | None:
        """Next command of any function's admin or HSM rings, in turn among the rings.

        None after `timeout_s` seconds without one, or, at once and for ever, after `wake`.
        """
        timeout_us = -1 if timeout_s is None else max(0, int(timeout_s * 1e6))
        return self._pull(ring, lambda buffer: lib.ihsm_pull(self.handle, ring, timeout_us, buffer))

    def pull_slow(self) -> Command | None:
        """As `pull`, without a time, for commands that were left to slow threads (`Engine.put_slow`)."""
        return self._pull(RingClass.HSM, lambda buffer: lib.ihsm_pull_slow(self.handle, buffer))

    def _pull(self, ring: RingClass, pull: Callable[[_native.Pointer[_native.ihsm_command]], int]) -> Command | None:
        puller: _Puller | None = getattr(self._local, "puller", None)
        if puller is None:
            puller = self._local.puller = _Puller()
            self._pullers.append(puller)
        puller.inside = True  # before `closed` is looked at: `close` waits for whom it finds inside
        try:
            if self.closed:
                return None
            while True:
                pulled = pull(puller.buffer)
                if pulled != _PULLED and pulled != _HELD:
                    return None
                reference = self._engines.get(int(puller.buffer.engine_id))
                if reference is None or (engine := reference()) is None:
                    continue  # the function went while its command was on the way
                try:
                    command = _command(engine, ring, puller)
                    if pulled == _PULLED:
                        return command
                    engine.hold(int(puller.buffer.held_by), command)
                except MemoryError:
                    engine.refuse(puller.buffer)  # nobody else knows of it
        finally:
            puller.inside = False

    def pull_unreachable(self) -> Unreachable | None:
        """Wait for what is out of reach next, of any function; for one thread, which ends before `close`.

        None after `wake`.
        """
        what = ffi.new("struct ihsm_unreachable *")
        while lib.ihsm_unreachable_pull(lib.ihsm_scheduler_unreachable(self.handle), -1, what) == _PULLED:
            reference = self._engines.get(what.engine_id)
            if reference is not None and (engine := reference()) is not None:
                return Unreachable(
                    engine,
                    UnreachableKind(what.kind),
                    Refusal(what.reason),
                    *(int(value) for value in (what.queue_id, what.cid, what.iova, what.count)),
                )
        return None

    def limit_outside(self, threads: int) -> None:
        """At most so many threads execute HSM commands at a time; another waits in `pull` with what it has got."""
        lib.ihsm_scheduler_set_outside(self.handle, threads)

    def wake(self) -> None:
        """End every `pull`, those running and those to come, and the AES workers."""
        self.closed = True
        if self._handle is not None:
            lib.ihsm_scheduler_wake(self._handle)

    def close(self) -> None:
        """Wake and wait for all threads inside, then free. Every engine must be closed before."""
        if self._engines:
            raise RuntimeError(f"{len(self._engines)} engines of the scheduler are still open")
        self.wake()
        while any(puller.inside for puller in self._pullers):
            time.sleep(_CLOSE_POLL_S)
        if self._handle is not None:
            lib.ihsm_scheduler_free(self._handle)
            self._handle = None

    def register(self, engine: CommandSource) -> int:
        """Number of a new engine, unique in the life of the scheduler."""
        number = next(self._ids)
        engines = self._engines
        engines[number] = weakref.ref(engine, lambda _: engines.pop(number, None))
        return number

    def forget(self, number: int) -> None:
        """The engine is closed."""
        self._engines.pop(number, None)
