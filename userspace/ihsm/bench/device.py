# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device under test: its process, its load, and functions brought up, provisioned and with keys."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Credential, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm.driver import Controller, DriverOptions
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import AesKeySize, KeyUsage
from ihsm_abi.ddi.limits import BK3_BYTES

CREDENTIAL: Final = Credential(b"benchmark client", b"benchmark number")
SCHEDULER_CLOCK: Final = 2
"""Kind of CPU clock in a clock id of Linux: run time as the scheduler accounts for it."""


class ProcessLoad:
    """CPU time and context switches of another process."""

    def __init__(self, pid: int) -> None:
        """`pid` must exist."""
        self._tasks = Path(f"/proc/{pid}/task")
        # The clock id of a process as clock_getcpuclockid(3) makes it: exact also for threads that are running.
        self._clock = ~pid << 3 | SCHEDULER_CLOCK

    def __call__(self) -> tuple[int, int]:
        """CPU nanoseconds and involuntary context switches so far."""
        switches = 0
        for task in os.listdir(self._tasks):
            with contextlib.suppress(OSError):
                status = (self._tasks / task / "status").read_text()
                switches += int(status.rsplit("nonvoluntary_ctxt_switches:", 1)[1])
        return time.clock_gettime_ns(self._clock), switches


class BenchDevice:
    """A private `ihsm serve`."""

    def __init__(self, arguments: Sequence[str] = (), count: int = 1) -> None:
        """Start it with `count` functions; see `EmbeddedDevice`."""
        self.process = EmbeddedDevice(arguments, count)
        self.load = ProcessLoad(self.process.pid)

    def controller(self, options: DriverOptions, number: int = 0) -> Controller:
        """Bring function `number` up; the caller closes it."""
        return Controller(VfioUserFunction(self.process.socket_paths[number]), options)

    def close(self) -> None:
        """End the process."""
        self.process.close()


def provision(controller: Controller) -> Session:
    """Give a fresh partition its credential and open a session."""
    partition = Partition(controller)
    anchor = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))
    partition.establish_credential(CREDENTIAL, partition.init_bk3(os.urandom(BK3_BYTES)).masked_bk3, anchor)
    return partition.open_session(CREDENTIAL)


@contextlib.contextmanager
def bulk_keys(session: Session, size: AesKeySize, count: int = 1) -> Iterator[list[int]]:
    """Numbers of new keys for the AES queues, deleted afterwards: a table holds seven."""
    keys = [session.generate_aes_key(size, KeyRequest(KeyUsage.EncryptDecrypt)) for _ in range(count)]
    try:
        yield [key.bulk_key_id for key in keys if key.bulk_key_id is not None]
    finally:
        for key in keys:
            session.delete_key(key)


@contextlib.contextmanager
def provisioned(device: BenchDevice, options: DriverOptions, number: int = 0) -> Iterator[tuple[Controller, Session]]:
    """A function brought up with an open session."""
    with device.controller(options, number) as controller, provision(controller) as session:
        yield controller, session
