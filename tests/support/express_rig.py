# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A real security module with the express lane in this process: one queue to work on it, one for its client's life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np

from ihsm.ddi.keys import Key
from ihsm_abi.admin import Psf
from ihsm_abi.ddi import (
    API_REV,
    DdiOp,
    DdiStatus,
    EccSignReq,
    HashAlgorithm,
    ReqHdr,
    decode_response_header,
    encode_message,
)
from ihsm_abi.hsm_queue import ControlKind, HsmStatus, SessionControl
from ihsm_abi.pci import PAGE_BYTES
from ihsm_device.hsm.command import HsmCommand
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.scheduler import Scheduler
from ihsm_device.workers import WorkerPool
from support.hsm import ModuleReply, Scene
from support.polled import hsm_sqe
from support.ring_path import RingPath

WORK: Final = 2
WORK_ENTRIES: Final = 1024
BURST: Final = 15
"""Commands at once, each with a page for its response."""


class _PathTransport:
    """The typed client's way to the module: the queue of a `RingPath`."""

    def __init__(self, path: RingPath) -> None:
        self._path = path

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> ModuleReply:
        return ModuleReply(self._path.execute(HsmCommand(message, kind, session_id is not None, session_id or 0)))


class ExpressRig:
    """Device, module, engine, workers; a client that has provisioned it."""

    def __init__(self) -> None:
        self.device = HsmDevice(DeviceOptions())
        self.module = self.device.function(0)
        self._scheduler = Scheduler()
        self.path = RingPath(self.module, self._scheduler)
        self.function = self.path.function
        self._pool = WorkerPool(self._scheduler, lambda command: self.function, express=True)
        self._pool.start()
        self.scene = Scene(self.module)
        self.scene.transport = _PathTransport(self.path)  # type: ignore[assignment]
        self.scene.client = type(self.scene.client)(self.scene.transport)
        self.scene.provision()
        self._queue = self.path.rig.queue(WORK, WORK_ENTRIES).create()
        self._request = self.path.rig.allocate(PAGE_BYTES)
        self._responses = self.path.rig.allocate(BURST * PAGE_BYTES)
        self._submitted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.stop()
        self.path.rig.close()
        self._scheduler.close()
        self.device.close()

    def begin(self, session_id: int, key: Key, count: int = BURST) -> range:
        """Ask for signatures; their places in the completion queue, which they take in the order of their ends."""
        request = EccSignReq(key_id=key.key_id, digest=bytes(range(32)), digest_algo=HashAlgorithm.Sha256)
        message = encode_message(
            ReqHdr(rev=API_REV, op=DdiOp.EccSign, sess_id=session_id), self.scene.dialect.to_wire(request)
        )
        self.path.rig.at(self._request, len(message))[:] = np.frombuffer(message, np.uint8)
        places = range(self._submitted, self._submitted + count)
        assert places.stop < WORK_ENTRIES, "the ring does not go round"
        self._submitted += count
        self._queue.submit(
            *(
                hsm_sqe(
                    number,
                    source=self._request,
                    source_bytes=len(message),
                    destination=self._responses + number * PAGE_BYTES,
                    destination_bytes=PAGE_BYTES,
                    control=SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1),
                    session_id=session_id,
                )
                for number in range(count)
            )
        )
        return places

    def completions(self, places: range) -> Sequence[Any]:
        """Those of the places that are there at this moment."""
        size = self._queue.cqe_type.itemsize
        raw = self.path.rig.at(self._queue.cq_iova, WORK_ENTRIES * size).copy()
        entries = raw.view(self._queue.cqe_type)
        return [entries[place] for place in places if Psf(entries[place]["psf"]).phase]

    def status(self, completion: Any) -> DdiStatus | HsmStatus:
        """What the completion says, or its response."""
        sc = Psf(completion["psf"]).sc
        if sc != HsmStatus.SUCCESS:
            return HsmStatus(sc)
        page = self._responses + int(completion["cid"]) * PAGE_BYTES
        header, _ = decode_response_header(self.path.rig.at(page, int(completion["byte_count"])).tobytes())
        return header.status

    @property
    def taken(self) -> int:
        """Commands that the express lane has carried out."""
        return self.path.rig.engine.counters()["hsm_express"]
