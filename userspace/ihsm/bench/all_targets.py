# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every target of a device on this machine: `ihsm bench targets`. Those of `--quick`, and what does not fit there."""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from ihsm.bench.client import CLIENT, sign_many_python
from ihsm.bench.device import BenchDevice, provisioned
from ihsm.bench.machine import smt_siblings
from ihsm.bench.quick import DDI_BATCH, DDI_NAP_US, OUTSTANDING, Group, QuickRun
from ihsm.bench.results import WALL, Result, throughput
from ihsm.bench.sample import Runner, Sample, Series, interleave, latencies_us, ratios, spread_of
from ihsm.bench.setups import WAITING
from ihsm.bench.workloads import ddi_work
from ihsm.driver import DriverOptions
from ihsm.errors import IhsmError
from ihsm.kept import MODULE_OPTIONS
from ihsm_abi.ddi import EccCurve

MANY: Final = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1, hsm_entries=257, buffer_bytes=8 << 20)
"""Room for what arrays have outstanding, and a client that naps between looks at the ring."""
MANY_OUTSTANDING: Final = 256
MANY_BATCH: Final = 64
ASLEEP_US: Final = 400
"""Of the client between two looks, where it is to leave both processors to the device: a tenth of what it has out."""
BOTH: Final = DriverOptions(spin_us=0, hsm_queues=2, aes_queues=1, hsm_entries=32)
"""A queue with much outstanding, and one for who waits for each command; both sleep until an interrupt."""
BESIDE_S: Final = 0.4
"""Of a run beside RSA: a 99th percentile wants many commands."""
RSA_HEAD_START_S: Final = 0.02
STARTS: Final = 7
START_TIMEOUT_S: Final = 120.0
P99: Final = 99.0


class CommandFailedError(IhsmError):
    """A command whose start was to be measured failed."""


class AllTargets(QuickRun):
    """The quick figures and the rest."""

    def groups(self) -> list[Group]:
        """The steps, in order."""
        return [
            *super().groups(),
            Group("RSA-4096", self.rsa_4096, ("trap",)),
            Group("HMAC and CBC", self.short, ("busy",)),
            Group("two device threads", self.threads, ("busy", "one_thread")),
            Group("ECDSA beside RSA", self.beside_rsa, ("trap", "without_lane")),
            Group("arrays from Python", self.arrays, ("quick",)),
            Group("start", lambda: [cli_start(min(STARTS, self.pairs))]),
        ]

    @property
    def figures_with_pairs(self) -> int:
        """Those of `--quick` and six more."""
        return super().figures_with_pairs + 6

    def rsa_4096(self) -> list[Result]:
        """rsa-4096, beside what `--quick` has of RSA."""
        with provisioned(self._devices["trap"], WAITING) as (controller, session):
            recorder, operations = self._operations(controller, session)
            return [self._ddi(operations.rsa(4096), recorder, controller, outstanding=1, batch=1)]

    def short(self) -> list[Result]:
        """hmac-sha256-64, cbc-1024: as arrays have them outstanding, with doorbells through a page."""
        results = []
        with provisioned(self._devices["busy"], MANY) as (controller, session):
            recorder, operations = self._operations(controller, session)
            for operation in (operations.hmac(64), operations.cbc(1024)):
                with ddi_work(operation, recorder, controller, load=self._devices["busy"].load) as work:
                    run = functools.partial(work.run, outstanding=MANY_OUTSTANDING, batch=MANY_BATCH, nap_us=DDI_NAP_US)
                    series = self._interleave({"device": run, **operation.peers})
                found = ratios(series, "device")
                results.append(throughput(operation.id, series, found, outstanding=MANY_OUTSTANDING, batch=MANY_BATCH))
        return results

    def threads(self) -> list[Result]:
        """ddi-threads: wall time, P-256 by two threads of a device against one, while the client is mostly asleep."""
        with contextlib.ExitStack() as stack:
            variants: dict[str, Runner] = {}
            for name, device in (("two_threads", self._devices["busy"]), ("one_thread", self._devices["one_thread"])):
                controller, session = stack.enter_context(provisioned(device, MANY))
                recorder, operations = self._operations(controller, session)
                operation = operations.ecdsa(EccCurve.P256)
                work = stack.enter_context(ddi_work(operation, recorder, controller, load=device.load))
                variants[name] = functools.partial(
                    work.run, outstanding=MANY_OUTSTANDING, batch=MANY_BATCH, nap_us=ASLEEP_US
                )
            series = self._interleave(variants)
        found = ratios(series, "two_threads", lambda sample: sample.wall_per_op_s)
        result = throughput("ddi-threads", series, found, ratio_clock=WALL, outstanding=MANY_OUTSTANDING)
        result.doubts += two_cores_doubt(smt_siblings())
        return [result]

    def beside_rsa(self) -> list[Result]:
        """ecdsa-p99-beside-rsa: wall time of one P-256 signature at a time, with the lane and without."""
        with contextlib.ExitStack() as stack:
            variants: dict[str, Runner] = {}
            for name, device in (("express_on", self._devices["trap"]), ("express_off", self._devices["without_lane"])):
                controller, session = stack.enter_context(provisioned(device, BOTH))
                recorder, operations = self._operations(controller, session)
                first, second = controller.hsm_queues
                rsa = stack.enter_context(ddi_work(operations.rsa(4096), recorder, controller, queue=second))
                operation = operations.ecdsa(EccCurve.P256)
                signature = stack.enter_context(
                    ddi_work(operation, recorder, controller, queue=first, load=device.load)
                )
                variants[name] = beside(
                    functools.partial(signature.run, outstanding=1),
                    functools.partial(rsa.run, outstanding=OUTSTANDING, batch=DDI_BATCH),
                )
            series = self._interleave(variants, BESIDE_S)
        return [_tail("ecdsa-p99-beside-rsa", series)]

    def arrays(self) -> list[Result]:
        """sign-many-python."""
        device = self._devices["quick"]
        with provisioned(device, CLIENT) as (controller, session):
            rounds = self._interleave
            return [sign_many_python(controller, session, device.load, peer=self.soft_hsm, rounds=rounds)]


def _tail(id: str, series: Series) -> Result:
    """The 99th percentile of the first variant's latencies over that of the second, of each round."""
    ours, theirs = series
    p99 = {name: [float(np.percentile(latencies_us([sample]), P99)) for sample in series[name]] for name in series}
    pairs = [our / their for our, their in zip(p99[ours], p99[theirs], strict=True)]
    more: dict[str, Any] = {f"{name}_p99_us": statistics.median(values) for name, values in p99.items()}
    more["pairs_spread"] = spread_of(pairs)
    return Result(
        id,
        more[f"{ours}_p99_us"],
        "us",
        {theirs: statistics.median(pairs)},
        ratio_clock=WALL,
        p50_us=float(np.median(latencies_us(series[ours]))),
        runs=series,
        more=more,
    )


def beside(measured: Runner, neighbour: Runner) -> Runner:
    """Runs of one while another, in a thread of its own, is at work before it begins and until it has ended."""

    def run(seconds: float) -> Sample:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(neighbour, seconds + 2 * RSA_HEAD_START_S)
            time.sleep(RSA_HEAD_START_S)
            sample = measured(seconds)
            other.result()
        return sample

    return run


def two_cores_doubt(cores: Sequence[Sequence[int]]) -> list[str]:
    """Why two threads cannot be told from one on CPUs of which each list is one core's; empty if they can."""
    if len(cores) > 1:
        return []
    return ["all CPUs are threads of one core: there is no second for a second thread"]


def cli_start(times: int) -> Result:
    """`ihsm --version` and `ihsm status` of a served function, whole processes, wall time."""
    with contextlib.closing(BenchDevice()) as device:
        commands = {
            "status": ["status", "--device", f"vfio-user:{device.process.socket_path}"],
            "version": ["--version"],
        }
        runs: dict[str, Runner] = {name: functools.partial(_once, words) for name, words in commands.items()}
        taken = interleave(runs, pairs=times)
    seconds = {f"{name}_s": statistics.median(run.wall_s for run in samples) for name, samples in taken.items()}
    return Result("cli-start", seconds["status_s"], "s", ratio_clock=WALL, runs=taken, more=seconds)


def _once(arguments: Sequence[str], seconds: float) -> Sample:
    """One process, however long it may take.

    Raises:
        CommandFailedError: it ended with another status than 0, or not at all.
    """
    del seconds
    command = [sys.executable, *MODULE_OPTIONS, "ihsm", *arguments]
    before, began = os.times(), time.perf_counter()
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=START_TIMEOUT_S, check=True)
    except subprocess.SubprocessError as error:
        raise CommandFailedError(f"ihsm {arguments[0]}: {error}") from None
    wall_s, after = time.perf_counter() - began, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Sample(operations=1, wall_s=wall_s, client_cpu_s=cpu_s)
