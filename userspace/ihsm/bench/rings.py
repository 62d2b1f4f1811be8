# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Load on rings from the C loops of `ihsm.bench._native`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bench import _native
from ihsm.bench._native import ffi, lib
from ihsm.bench.sample import LEAST_S, Load, Sample, Watch
from ihsm.bus import VfioUserFunction
from ihsm.driver import Controller
from ihsm.driver.queue_pair import LentRings, QueuePair
from ihsm.errors import DriverError
from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET
from ihsm_abi.pci import Bar

MAX_LATENCIES: Final = 1 << 20
"""Latencies kept per run; a run with more operations keeps its first."""
NAP_US: Final = 20
"""Of a client that has much outstanding: as long as some tens of AES commands take."""


class BenchLoopError(DriverError):
    """A loop could not run, or commands failed or were lost."""


def check(status: int, what: str) -> None:
    """Raise for a negative errno."""
    if status == -errno.EBADMSG:
        raise BenchLoopError(f"{what}: a completion for a command that is not outstanding")
    if status == -errno.ETIMEDOUT:
        raise BenchLoopError(f"{what}: a command got no completion")
    if status:
        raise BenchLoopError(f"{what}: {os.strerror(-status)}")


def sample_of(
    result: _native.ihsm_bench_result,
    latencies: NDArray[np.uint32] | None = None,
    watch: tuple[float | None, int, float | None] = (None, 0, None),
) -> Sample:
    """A C result as a sample; `watch` is what `Watch.end` gives.

    Raises:
        BenchLoopError: no operation was done, so that there is no cost of one.
    """
    if not result.operations:
        raise BenchLoopError(f"no operation within {result.wall_ns / 1e9:.3g} s")
    device_s, switches, others = watch
    return Sample(
        result.operations,
        result.wall_ns / 1e9,
        result.cpu_ns / 1e9,
        device_s,
        result.involuntary + switches,
        others,
        None if latencies is None else latencies[: result.recorded].copy(),
    )


class RingLoad:
    """Prepared entries on one or more queues of a controller."""

    def __init__(
        self, controller: Controller, queues: Sequence[QueuePair], tables: Sequence[NDArray[np.void]],
        load: Load | None = None,
    ) -> None:  # fmt: skip
        """One table of entries per queue, its length the queue's size; command ids are filled in.

        `load` reads CPU time and context switches of the device, None if it is out of reach.
        """
        self._controller = controller
        self._queues = queues
        self._tables = [np.ascontiguousarray(table) for table in tables]
        self._load = load
        self._submitted = [np.zeros(queue.entries, np.uint64) for queue in queues]
        self._free = [np.arange(queue.entries, dtype=np.uint16) for queue in queues]
        self._latencies = np.zeros(MAX_LATENCIES, np.uint32)
        for queue, table in zip(queues, self._tables, strict=True):
            if len(table) != queue.entries:
                raise ValueError(f"{queue}: {len(table)} entries prepared for a ring of {queue.entries}")

    def closed_loop(
        self, seconds: float, *, depth: int, batch: int = 1, latencies: bool = False, nap_us: int = NAP_US
    ) -> Sample:
        """Keep up to `depth` commands outstanding on every queue, submitted `batch` at a time.

        Where completions are polled, and much is outstanding, the caller naps for `nap_us` between two looks.
        """
        smallest = min(queue.entries for queue in self._queues)
        if not 1 <= batch <= depth < smallest:
            raise ValueError(f"batches of {batch}, {depth} outstanding: 1 to {smallest - 1} possible")
        room = MAX_LATENCIES if latencies else 0
        return self._run(
            lambda rings, count, result: lib.ihsm_bench_closed_loop(
                rings, count, depth, batch, int(seconds * 1e9), nap_us * 1000, self._buffer(room), room, result
            ),
            latencies,
        )

    def open_loop(self, seconds: float, *, rate: float) -> Sample:
        """Submit `rate` commands per second on the first queue, whether or not earlier ones have completed."""
        return self._run(
            lambda rings, count, result: lib.ihsm_bench_open_loop(
                rings,
                _interval_ns(rate, seconds),
                int(seconds * 1e9),
                self._buffer(MAX_LATENCIES),
                MAX_LATENCIES,
                result,
            ),
            True,
        )

    def _buffer(self, room: int) -> _native.Pointer[_native.uint32_t]:
        return ffi.from_buffer("uint32_t[]", self._latencies, require_writable=True) if room else ffi.NULL

    def _run(
        self,
        loop: Callable[[_native.Array[_native.ihsm_bench_ring], int, _native.ihsm_bench_result_pointer], int],
        latencies: bool,
    ) -> Sample:
        result = ffi.new("struct ihsm_bench_result *")
        with self._lent() as rings:
            watch = Watch(self._load)
            status = loop(rings, len(self._queues), result)
            seen = watch.end(result.wall_ns / 1e9)
            check(status, str(self._queues[0]))
        if result.failed:
            raise BenchLoopError(f"{self._queues[0]}: {result.failed} of {result.operations} commands failed")
        return sample_of(result, self._latencies if latencies else None, seen)

    @contextlib.contextmanager
    def _lent(self) -> Iterator[_native.Array[_native.ihsm_bench_ring]]:
        rings = ffi.new("struct ihsm_bench_ring[]", len(self._queues))
        with contextlib.ExitStack() as stack:
            lent = [stack.enter_context(queue.lent()) for queue in self._queues]
            for number, parts in enumerate(lent):
                self._fill(rings[number], number, parts)
            yield rings
            for number, parts in enumerate(lent):
                ring = rings[number]
                parts.tail, parts.head, parts.phase = ring.tail, ring.cq.head, ring.cq.phase

    def _fill(self, ring: _native.ihsm_bench_ring, number: int, parts: LentRings) -> None:
        queue, table = self._queues[number], self._tables[number]
        function = self._controller.function
        cqe, sqe = queue.ring.cqe, queue.ring.sqe
        assert cqe.fields is not None
        assert sqe.fields is not None
        ring.sq = _address(parts.sq)
        ring.table = _address(table.view(np.uint8))
        ring.entries = queue.entries
        ring.sqe_bytes, ring.sqe_cid = sqe.itemsize, sqe.fields[queue.ring.cid][1]
        ring.cqe_cid = cqe.fields[queue.ring.cid][1]
        ring.tail = parts.tail
        ring.cq.ring = _address(parts.cq)
        ring.cq.entries, ring.cq.entry_bytes = queue.entries, cqe.itemsize
        ring.cq.head, ring.cq.phase = parts.head, parts.phase
        ring.sq_bell, ring.cq_bell = queue.doorbell_offsets
        ring.submitted_ns = ffi.cast("uint64_t *", self._submitted[number].ctypes.data)
        ring.free = ffi.cast("uint16_t *", self._free[number].ctypes.data)
        ring.event = -1 if queue.line.event is None else queue.line.event
        ring.kick = ring.socket = -1
        page = function.map_bar(Bar.DOORBELLS)
        if page is not None:
            ring.page = ffi.cast("uint8_t *", np.frombuffer(page, np.uint8).ctypes.data)
            kick = function.write_event(Bar.DOORBELLS)
            if kick is not None:
                ring.kick, ring.asleep_offset = kick, POLLER_ASLEEP_OFFSET
        elif isinstance(function, VfioUserFunction):
            ring.socket, message = function.posted_write(Bar.DOORBELLS)
            ffi.memmove(ring.message, message, len(message))
        else:
            raise BenchLoopError(f"{function.uri}: BAR2 cannot be mapped")


def _interval_ns(rate: float, seconds: float) -> int:
    """Time between commands; such that at least one is due, and the clock tells one from the next."""
    return max(1, int(min(1e9 / rate if rate > 0 else float("inf"), max(seconds, LEAST_S) * 1e9)))


def _address(array: NDArray[np.uint8]) -> _native.Pointer[_native.uint8_t]:
    return ffi.cast("uint8_t *", array.ctypes.data)


def primitive(name: str, seconds: float) -> Sample:
    """One of the round trips without any device: shared_memory, socket, eventfd."""
    result = ffi.new("struct ihsm_bench_result *")
    latencies = np.zeros(MAX_LATENCIES, np.uint32)
    loop = {
        "shared_memory": lib.ihsm_bench_shared_memory,
        "socket": lib.ihsm_bench_socket,
        "eventfd": lib.ihsm_bench_eventfd,
    }[name]
    watch = Watch(None)
    status = loop(
        int(seconds * 1e9), ffi.from_buffer("uint32_t[]", latencies, require_writable=True), MAX_LATENCIES, result
    )
    seen = watch.end(result.wall_ns / 1e9, alone=True)
    check(status, name)
    return sample_of(result, latencies, seen)
