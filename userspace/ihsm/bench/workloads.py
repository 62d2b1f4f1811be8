# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Prepared work: AES commands over DMA buffers and HSM commands that can be sent again and again."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bench.device import bulk_keys
from ihsm.bench.operations import Operation
from ihsm.bench.peers import Buffers, Library
from ihsm.bench.rings import NAP_US, RingLoad
from ihsm.bench.sample import Load, Runner, Sample
from ihsm.ddi import Partition, Session
from ihsm.driver import AesQueue, Controller, FastPathSession, HsmQueue, HsmReply
from ihsm.driver.aes_batch import gcm_entries, xts_entries
from ihsm.driver.rings import HSM_RING
from ihsm_abi.ddi import AesKeySize
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.pci import PAGE_BYTES

AAD_BYTES: Final = 32
"""AAD of every GCM command: one block of the device's alignment, so that nothing is padded."""
WORKING_SET_BYTES: Final = 1 << 20
"""Sources and destinations together: what a core's second-level cache holds."""
MIN_BUFFERS: Final = 4


class AesWork:
    """AES-256-GCM or -XTS encryption of texts of one size on some queues of a controller."""

    def __init__(
        self, controller: Controller, ids: FastPathSession, cipher: str, keys: Sequence[int], size: int, *,
        queues: Sequence[AesQueue], load: Load | None = None, in_place: bool = False,
    ) -> None:  # fmt: skip
        """Make buffers and entries; `cipher` is gcm or xts, `size` the bytes of text."""
        self.aad_bytes = AAD_BYTES if cipher == "gcm" else 0
        self.size = size
        self.queues = queues
        stride = -(-(self.aad_bytes + size) // 64) * 64
        count = max(MIN_BUFFERS, min(queues[0].entries, WORKING_SET_BYTES // (2 * stride)))
        self._source = controller.allocate(count * stride, PAGE_BYTES)
        self._target = self._source if in_place else controller.allocate(count * stride, PAGE_BYTES)
        self._source.view[:] = np.arange(count * stride, dtype=np.uint64).astype(np.uint8)
        self.buffers = Buffers(self._source.view, self._target.view, count, stride)
        tables: list[NDArray[np.void]] = []
        for queue in queues:
            index = np.arange(queue.entries, dtype=np.uint64)
            offsets = index % np.uint64(count) * np.uint64(stride)
            numbers = np.zeros((queue.entries, 16), np.uint8)
            numbers[:, :8] = index.view(np.uint8).reshape(-1, 8)
            sources, targets = self._source.iova + offsets, self._target.iova + offsets
            if cipher == "gcm":
                tables.append(
                    gcm_entries(
                        ids,
                        keys[0],
                        sources,
                        targets,
                        size,
                        decrypt=False,
                        aad_bytes=self.aad_bytes,
                        ivs=numbers[:, :12],
                    )
                )
            else:
                tables.append(xts_entries(ids, (keys[0], keys[1]), sources, targets, size, numbers, decrypt=False))
        self.tables = tables
        self.ring = RingLoad(controller, queues, tables, load)

    def run(self, seconds: float, *, depth: int, batch: int, latencies: bool = False) -> Sample:
        """Closed loop on all queues."""
        return self.ring.closed_loop(seconds, depth=depth, batch=batch, latencies=latencies)

    def release(self) -> None:
        """Give the buffers back."""
        self._source.release()
        self._target.release()


class Recorder:
    """A transport that remembers the last command, so that it can be sent again."""

    def __init__(self, controller: Controller) -> None:
        """Commands go through `controller`."""
        self._controller = controller
        self.message = b""
        self.session_id: int | None = None

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> HsmReply:
        """Execute and remember."""
        self.message, self.session_id = message, session_id
        return self._controller.exchange(message, kind, session_id)


def recorded(controller: Controller, session: Session) -> tuple[Recorder, Session]:
    """A recorder, and the session through it."""
    recorder = Recorder(controller)
    partition = Partition(recorder)
    partition.info()  # now, so that the command recorded last is always the operation's
    return recorder, Session(partition, session.session_id, session.short_app_id, b"", b"")


class DdiWork:
    """One in-session HSM command, as often as wanted, on one queue."""

    def __init__(
        self, controller: Controller, message: bytes, session_id: int, *, queue: HsmQueue, load: Load | None = None
    ) -> None:
        """`message` is an encoded request that may be executed any number of times."""
        pages = -(-len(message) // PAGE_BYTES)
        self._request = controller.allocate(pages * PAGE_BYTES, PAGE_BYTES)
        self._request.view[: len(message)] = np.frombuffer(message, np.uint8)
        self._responses = controller.allocate(queue.entries * PAGE_BYTES, PAGE_BYTES)
        table = np.zeros(queue.entries, HSM_RING.sqe)
        table["src_len"] = len(message)
        table["src_prp1"] = self._request.iova
        table["dst_len"] = PAGE_BYTES
        table["dst_prp1"] = self._responses.iova + np.arange(queue.entries, dtype=np.uint64) * np.uint64(PAGE_BYTES)
        table["control"] = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)
        table["session_id"] = session_id
        self.ring = RingLoad(controller, [queue], [table], load)

    def run(self, seconds: float, *, outstanding: int, batch: int = 1, nap_us: int = NAP_US) -> Sample:
        """Keep up to so many commands outstanding; latencies are recorded where they are submitted one by one.

        For `nap_us` see `RingLoad.closed_loop`.
        """
        return self.ring.closed_loop(seconds, depth=outstanding, batch=batch, latencies=batch == 1, nap_us=nap_us)

    def response(self, slot: int) -> bytes:
        """What lies in the response page of a slot."""
        return self._responses.view[slot * PAGE_BYTES : (slot + 1) * PAGE_BYTES].tobytes()

    def release(self) -> None:
        """Give the buffers back."""
        self._request.release()
        self._responses.release()


@contextmanager
def aes_work(
    controller: Controller, session: Session, cipher: str, size: int, *, queues: Sequence[AesQueue] | None = None,
    load: Load | None = None, in_place: bool = False,
) -> Iterator[AesWork]:  # fmt: skip
    """`AesWork` on the first queue, or on those given, released afterwards."""
    chosen = controller.aes_queues[:1] if queues is None else queues
    kind, count = (AesKeySize.AesGcmBulk256Unapproved, 1) if cipher == "gcm" else (AesKeySize.AesXtsBulk256, 2)
    with bulk_keys(session, kind, count) as keys:
        work = AesWork(controller, session.fast_path, cipher, keys, size, queues=chosen, load=load, in_place=in_place)
        try:
            yield work
        finally:
            work.release()


@contextmanager
def ddi_work(
    operation: Operation, recorder: Recorder, controller: Controller, *, queue: HsmQueue | None = None,
    load: Load | None = None,
) -> Iterator[DdiWork]:  # fmt: skip
    """`DdiWork` of an operation that `recorder` sees sent, on the first queue or the one given, released afterwards."""
    operation.send()
    assert recorder.session_id is not None
    work = DdiWork(
        controller, recorder.message, recorder.session_id, queue=queue or controller.hsm_queues[0], load=load
    )
    try:
        yield work
    finally:
        work.release()


def library_runner(library: Library, work: AesWork, cipher: str) -> Runner:
    """The same work by a library."""
    if cipher == "gcm":
        return functools.partial(library.gcm, work.buffers, work.aad_bytes, work.size)
    return functools.partial(library.xts, work.buffers, work.size)
