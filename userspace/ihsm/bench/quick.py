# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""All target figures in less than a minute: `ihsm bench --quick`."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ihsm.bench.client import exchange_python, ring_poll_python
from ihsm.bench.device import BenchDevice, provision, provisioned
from ihsm.bench.operations import Operation, Operations
from ihsm.bench.peers import Library, SoftHsm, aws_lc, soft_hsm, system_openssl
from ihsm.bench.results import CPU, WALL, Result, latency, throughput
from ihsm.bench.rings import primitive
from ihsm.bench.sample import PAIR_SECONDS, PAIRS, Runner, Sample, Series, Watch, interleave, ratios
from ihsm.bench.setups import (
    LATENCY_DEVICE,
    THROUGHPUT_DEVICE,
    TRAP_DEVICE,
    WAITING,
    IdleReading,
    proportional_bytes,
)
from ihsm.bench.workloads import AesWork, Recorder, aes_work, ddi_work, library_runner, recorded
from ihsm.closing import Closing
from ihsm.ddi import Session
from ihsm.driver import Controller, DriverOptions
from ihsm_abi.ddi import EccCurve

OUTSTANDING: Final = 16
DDI_BATCH: Final = 4
"""Commands submitted, and completions taken, with one doorbell."""
DDI_NAP_US: Final = 50
"""Of a client between two looks: as long as a few operations of some microseconds take, so that it disturbs none."""
QUEUES: Final = 126
FUNCTIONS: Final = 64
POLLED: Final = DriverOptions(
    interrupts=False, spin_us=200, hsm_queues=1, aes_queues=1, aes_entries=1024, buffer_bytes=8 << 20
)
MANY_QUEUES: Final = DriverOptions(interrupts=False, hsm_queues=1, aes_entries=16, buffer_bytes=8 << 20)
IDLE: Final = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1, aes_entries=16, buffer_bytes=1 << 16)

DEVICES: Final = {
    "busy": ((*THROUGHPUT_DEVICE, "--hsm-threads", "2"), 1),
    "one_thread": ((*THROUGHPUT_DEVICE, "--hsm-threads", "1"), 1),
    "quick": (LATENCY_DEVICE, 1),
    "wide": ((*THROUGHPUT_DEVICE, "--resources", str(QUEUES // 2)), 1),
    "trap": ((*TRAP_DEVICE, "--resources", "2"), 1),
    "without_lane": ((*TRAP_DEVICE, "--resources", "2", "--express", "off"), 1),
    "idle": (TRAP_DEVICE, FUNCTIONS),
}
"""Options of `ihsm serve` and number of functions, by the names that groups of figures use."""

Step = Callable[[], list[Result]]


@dataclass(frozen=True)
class Group:
    """Figures that are measured together."""

    title: str
    step: Step
    devices: tuple[str, ...] = ()
    """Names of those it uses."""


class QuickRun(Closing):
    """The steps, with what they share."""

    def __init__(self, advance: Callable[[], None] = lambda: None, pairs: int = PAIRS) -> None:
        """Start the devices; `advance` is called after each round, `pairs` of them for each figure."""
        self._advance = advance
        self.pairs = pairs
        self.openssl: Library | None = system_openssl()
        self.aws_lc: Library = aws_lc()
        self.soft_hsm: SoftHsm | None = soft_hsm()
        self._stack = contextlib.ExitStack()
        try:
            if self.soft_hsm:
                self._stack.callback(self.soft_hsm.close)
            self._devices = self._start_devices()
        except BaseException:
            self._stack.close()
            raise

    def _start_devices(self) -> dict[str, BenchDevice]:
        """Those that the groups use, all at once: what takes time is starting their interpreters."""
        wanted = sorted({name for group in self.groups() for name in group.devices})
        if not wanted:
            return {}
        pool = self._stack.enter_context(ThreadPoolExecutor(len(wanted)))
        starting = {name: pool.submit(BenchDevice, *DEVICES[name]) for name in wanted}
        started = [future.result() for future in starting.values() if future.exception() is None]
        self._stack.callback(lambda: list(pool.map(BenchDevice.close, started)))
        return {name: future.result() for name, future in starting.items()}

    @property
    def peers(self) -> dict[str, str | None]:
        """Versions of the peers; None for one that is not installed."""
        return {
            "openssl": self.openssl.version if self.openssl else None,
            "aws_lc": self.aws_lc.version,
            "softhsm2": self.soft_hsm.version if self.soft_hsm else None,
        }

    def close(self) -> None:
        """End the devices and let go of the peers."""
        self._stack.close()

    def _interleave(self, variants: dict[str, Runner], seconds: float = PAIR_SECONDS) -> Series:
        return interleave(variants, pairs=self.pairs, seconds=seconds, advance=self._advance)

    def groups(self) -> list[Group]:
        """The steps, in order."""
        return [
            Group("rings and AES", self.polled, ("busy", "quick", "wide")),
            Group("trapped doorbells and DDI", self.trapped, ("trap", "idle")),
        ]

    @property
    def figures_with_pairs(self) -> int:
        """How many figures come from interleaved rounds."""
        return 11

    @property
    def rounds(self) -> int:
        """How often `advance` will be called."""
        return self.pairs * self.figures_with_pairs

    # ---- AES ----

    def polled(self) -> list[Result]:
        """gcm-65536, gcm-4096, gcm-64, gcm-64-numpy, xts-4096, ring-poll-c, -python, exchange-python, scale-queues."""
        with (
            provisioned(self._devices["busy"], POLLED) as (controller, session),
            provisioned(self._devices["quick"], POLLED) as (quick_controller, quick_session),
        ):
            with aes_work(quick_controller, quick_session, "gcm", 64) as numpy_work:
                numpy = numpy_batches(numpy_work, quick_controller, 256, self._devices["quick"])
                small = self._aes(controller, session, "gcm", 64, depth=768, batch=256, numpy=numpy)
            return [
                *self._aes(controller, session, "gcm", 65536, depth=32, batch=8),
                *self._aes(controller, session, "gcm", 4096, depth=192, batch=64),
                *small,
                *self._aes(controller, session, "xts", 4096, depth=192, batch=64),
                self._scale_queues(controller, session),
                self._ring_poll_c(quick_controller, quick_session),
                ring_poll_python(quick_controller, quick_session, self._devices["quick"].load),
                exchange_python(quick_controller, quick_session, self._devices["quick"].load),
            ]

    def _aes(
        self,
        controller: Controller,
        session: Session,
        cipher: str,
        size: int,
        *,
        depth: int,
        batch: int,
        numpy: Runner | None = None,
    ) -> list[Result]:
        """With `numpy` the SoftHSM2 comparison too, and a second result."""
        with aes_work(controller, session, cipher, size, load=self._devices["busy"].load) as work:
            variants: dict[str, Runner] = {"device": functools.partial(work.run, depth=depth, batch=batch)}
            if self.openssl is not None:
                variants["openssl"] = library_runner(self.openssl, work, cipher)
            if numpy is None:
                variants["aws_lc"] = library_runner(self.aws_lc, work, cipher)
            else:
                variants["numpy"] = numpy
                if self.soft_hsm:
                    hsm = self.soft_hsm
                    variants["softhsm2"] = lambda seconds: hsm.gcm(work.buffers, work.aad_bytes, size, seconds)
            series = self._interleave(variants)
        runs = {name: samples for name, samples in series.items() if name != "numpy"}
        results = [throughput(f"{cipher}-{size}", runs, ratios(runs, "device"), bytes=size, batch=batch, depth=depth)]
        if numpy is not None:
            peers = {name: samples for name, samples in series.items() if name != "device"}
            wall = ratios(peers, "numpy", lambda sample: sample.wall_per_op_s)
            runs = {"numpy": series["numpy"]}
            results.append(throughput("gcm-64-numpy", runs, wall, ratio_clock=WALL, bytes=size, batch=batch))
        return results

    # ---- latency and scale ----

    def _ring_poll_c(self, controller: Controller, session: Session) -> Result:
        with aes_work(controller, session, "gcm", 16, load=self._devices["quick"].load) as work:
            series = self._interleave(
                {
                    "device": functools.partial(work.run, depth=1, batch=1, latencies=True),
                    "shared_memory": lambda seconds: primitive("shared_memory", seconds / 2),
                }
            )
        return latency("ring-poll-c", series, median_p50_ratio(series, "device", "shared_memory"), bytes=16)

    def _scale_queues(self, controller: Controller, session: Session) -> Result:
        many = self._devices["wide"]
        with (
            provisioned(many, MANY_QUEUES) as (wide, wide_session),
            aes_work(controller, session, "gcm", 4096, load=self._devices["busy"].load) as one,
            aes_work(wide, wide_session, "gcm", 4096, load=many.load, queues=wide.aes_queues) as all_queues,
        ):
            series = self._interleave(
                {
                    "queues": functools.partial(all_queues.run, depth=12, batch=4),
                    "single_queue": functools.partial(one.run, depth=192, batch=64),
                }
            )
            count = len(wide.aes_queues)
        return throughput("scale-queues", series, ratios(series, "queues"), bytes=4096, queues=count)

    # ---- trapped doorbells, DDI, idle functions ----

    def trapped(self) -> list[Result]:
        """ring-trap, rsa-2048, rsa-3072, and idle-64 beside them; ecdsa-p256, ecdsa-p384."""
        with provisioned(self._devices["trap"], WAITING) as (controller, session):
            results = [self._ring_trap(controller, session), *self._rsa(controller, session)]
        with provisioned(self._devices["trap"], POLLED) as (controller, session):
            results += self._ecdsa(controller, session)
        return results

    def _ecdsa(self, controller: Controller, session: Session) -> Iterator[Result]:
        recorder, operations = self._operations(controller, session)
        for curve in (EccCurve.P256, EccCurve.P384):
            yield self._ddi(operations.ecdsa(curve), recorder, controller, outstanding=OUTSTANDING, batch=DDI_BATCH)

    def _rsa(self, controller: Controller, session: Session) -> Iterator[Result]:
        """One at a time: two workers are, on many machines, two threads of a core that the peer has to itself."""
        recorder, operations = self._operations(controller, session)
        with idle_functions(self._devices["idle"]):
            for bits in (2048, 3072):
                operation = operations.rsa(bits)
                # Provisioning has the device make keys ahead; that is over after the first of the two.
                before = IdleReading(self._devices["idle"])
                yield self._ddi(operation, recorder, controller, outstanding=1, batch=1)
            yield self._idle_64(before)

    def _operations(self, controller: Controller, session: Session) -> tuple[Recorder, Operations]:
        recorder, through = recorded(controller, session)
        return recorder, Operations(session, through, self.openssl, self.soft_hsm)

    def _idle_64(self, reading: IdleReading) -> Result:
        """Percent of a CPU since the reading's start, and memory now."""
        megabytes = proportional_bytes(self._devices["idle"].process.pid) / 1e6
        facts = {"functions": FUNCTIONS, "megabytes_per_function": megabytes / FUNCTIONS, "megabytes": megabytes}
        return Result("idle-64", reading.percent(), "%", clock=CPU, more=facts)

    def _ring_trap(self, controller: Controller, session: Session) -> Result:
        with aes_work(controller, session, "gcm", 16, load=self._devices["trap"].load) as work:
            series = self._interleave(
                {
                    "device": functools.partial(work.run, depth=1, batch=1, latencies=True),
                    "socket": lambda seconds: primitive("socket", seconds / 2),
                    "eventfd": lambda seconds: primitive("eventfd", seconds / 2),
                }
            )
        return latency("ring-trap", series, median_p50_ratio(series, "device", "socket", "eventfd"), bytes=16)

    def _ddi(
        self, operation: Operation, recorder: Recorder, controller: Controller, *, outstanding: int, batch: int
    ) -> Result:
        """An operation through the device that traps, against its peers."""
        with ddi_work(operation, recorder, controller, load=self._devices["trap"].load) as work:
            run = functools.partial(work.run, outstanding=outstanding, batch=batch, nap_us=DDI_NAP_US)
            series = self._interleave({"device": run, **operation.peers})
        return throughput(operation.id, series, ratios(series, "device"), outstanding=outstanding, batch=batch)


@contextlib.contextmanager
def idle_functions(device: BenchDevice) -> Iterator[None]:
    """All functions of a device connected and enabled, the first provisioned, none at work."""
    with contextlib.ExitStack() as stack:
        for number in range(FUNCTIONS):
            controller = device.controller(IDLE, number)
            stack.callback(controller.function.close)  # as a client that goes away; the device ends soon
            if number == 0:
                provision(controller)
        yield


def numpy_batches(work: AesWork, controller: Controller, batch: int, under_test: BenchDevice) -> Runner:
    """Batches submitted and reaped from Python, the next one before the last is waited for."""
    queue, entries = controller.aes_queues[0], work.tables[0][:batch]

    def run(seconds: float) -> Sample:
        watch, cpu, start = Watch(under_test.load), time.thread_time(), time.perf_counter()
        end, done = start + seconds, 0
        ahead = queue.submit(entries, 5.0)
        while time.perf_counter() < end:
            following = queue.submit(entries, 5.0)
            done += _completed(ahead.result())
            ahead = following
        done += _completed(ahead.result())
        wall = time.perf_counter() - start
        own_cpu_s = time.thread_time() - cpu
        return Sample(done, wall, own_cpu_s, *watch.end(wall))

    return run


def _completed(completions: np.ndarray[Any, Any]) -> int:
    if (completions["psf"] >> 1).any():
        raise RuntimeError("a command of the batch failed")
    return len(completions)


def median_p50_ratio(series: Series, subject: str, *primitives: str) -> dict[str, float]:
    """Median over the rounds of the subject's median latency by the sum of the primitives', if there is one."""

    def p50(sample: Sample) -> float:
        latencies = sample.latencies_ns
        return float(np.median(latencies)) if latencies is not None and len(latencies) else 0.0

    rounds = zip(series[subject], *(series[name] for name in primitives), strict=True)
    pairs = [(p50(ours), sum(p50(theirs) for theirs in others)) for ours, *others in rounds]
    found = [ours / theirs for ours, theirs in pairs if theirs > 0]
    return {"primitives": statistics.median(found)} if found else {}
