# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the quick figures and the longer measurements set up alike: devices, drivers, the peers' side of the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.bench.device import BenchDevice, provision, provisioned
from ihsm.bench.sample import LEAST_S, Load
from ihsm.ddi import Session
from ihsm.driver import Controller, DriverOptions

THROUGHPUT_DEVICE: Final = ("--doorbell", "page", "--spin-us", "2")
"""Asleep as soon as its rings are empty, so that its CPU time is work and not waiting."""
LATENCY_DEVICE: Final = ("--doorbell", "page", "--spin-us", "100")
"""Awake while a caller comes back within microseconds."""
TRAP_DEVICE: Final = ("--doorbell", "trap")
WAITING: Final = DriverOptions(spin_us=0, hsm_queues=1, aes_queues=1, hsm_entries=32)
"""A driver that blocks for each interrupt."""


class Place:
    """Where the functions under test are: private devices, or one function given by the caller."""

    def __init__(self, controller: Callable[[DriverOptions], Controller] | None = None) -> None:
        """`controller` brings a given function up; None: private devices are started as needed."""
        self._controller = controller

    @contextmanager
    def function(
        self, arguments: Sequence[str], options: DriverOptions
    ) -> Iterator[tuple[Controller, Session, Load | None]]:
        """A provisioned function with its device's load, None where that is out of reach."""
        if self._controller is not None:
            with self._controller(options) as controller, provision(controller) as session:
                yield controller, session, None
            return
        device = BenchDevice(arguments)
        try:
            with provisioned(device, options) as (controller, session):
                yield controller, session, device.load
        finally:
            device.close()


class IdleReading:
    """CPU time of an idle device from now on."""

    def __init__(self, device: BenchDevice) -> None:
        """Start."""
        self._device = device
        self._cpu_ns, self._start = device.load()[0], time.monotonic()

    def percent(self) -> float:
        """Share of a CPU since the start."""
        return (self._device.load()[0] - self._cpu_ns) / 1e7 / max(time.monotonic() - self._start, LEAST_S)


def proportional_bytes(pid: int) -> int:
    """Memory of a process, shared pages divided by their users (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/smaps_rollup has no Pss line")


def der(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """PKCS#8."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
