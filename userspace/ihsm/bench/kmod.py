# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What an ioctl costs on the host, each way by which it can come to the driver model: `ihsm bench kmod`."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from ihsm.bench.device import BenchDevice, ProcessLoad
from ihsm.bench.results import CPU, WALL, Result, throughput
from ihsm.bench.sample import Sample, interleave, ratios, timed
from ihsm.bench.setups import Place
from ihsm.driver import DriverOptions
from ihsm.errors import IhsmError
from ihsm.kept import MODULE_OPTIONS
from ihsm_abi.ddi import GetApiRevReq, encode_request
from ihsm_abi.hsm_queue import ControlKind

WAYS: Final = ("notify", "preload")
NODE: Final = "/dev/azihsm0"
OPENINGS: Final = 2000
WARM_UP_OPENINGS: Final = 200
"""After which the model has the threads that it needs for them."""
PAIRS: Final = 9
Advance = Callable[[str], None]


class Program:
    """A program that makes ioctls when it is told to, under `ihsm kmod run`."""

    def __init__(self, way: str, arguments: Sequence[str]) -> None:
        """Start it."""
        python = [sys.executable, *MODULE_OPTIONS]
        command = [*python, "ihsm", "kmod", "run", "--via", way, *arguments, "--"]
        self._running = subprocess.Popen(
            [*command, *python, "ihsm.bench.ioctl_load", NODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.load = ProcessLoad(self._running.pid)
        """Of the model's process."""

    def order(self, order: str, number: float) -> dict[str, Any]:
        """Have it do something (`ioctl_load`); what it answers."""
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write(f"{order} {number}\n")
        self._running.stdin.flush()
        line = self._running.stdout.readline()
        if not line:
            raise IhsmError("the program under measurement has ended, as said above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, seconds: float) -> Sample:
        """Ioctls for so long. The client's CPU time is that of both sides: the program and the model."""
        before, _ = self.load()
        done = self.order("run", seconds)
        model_s = (self.load()[0] - before) / 1e9
        return Sample(done["operations"], done["wall_s"], done["cpu_s"] + model_s)

    def holds(self) -> tuple[int, int]:
        """Descriptors and threads of the model's process."""
        folder = f"/proc/{self._running.pid}"
        return len(os.listdir(f"{folder}/fd")), len(os.listdir(f"{folder}/task"))

    def close(self) -> None:
        """End it."""
        self._running.communicate()


def kmod(place: Place, advance: Advance) -> list[Result]:
    """Ioctls by each way beside an exchange of the driver of this project; the way alone; what opens leave behind."""
    del place  # it takes devices of its own
    results: list[Result] = []
    for measure in (_rates, _ways):
        results += measure()
        advance(results[-1].id)
    return results


@contextmanager
def _programs(arguments: Sequence[str]) -> Iterator[dict[str, Program]]:
    with contextlib.ExitStack() as stack:
        programs = {way: Program(way, arguments) for way in WAYS}
        for program in programs.values():
            stack.callback(program.close)
        yield programs


@contextmanager
def _on_one_processor() -> Iterator[None]:
    """What is started meanwhile, and the threads that it has, share a processor.

    Program and model take turns. On a machine with nothing else to do Linux wakes each on a processor that sleeps, and
    the CPU time of that is as much again, or several times as much: it tells of the machine, not of the way.
    """
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def _rates() -> list[Result]:
    """A session-less command by each way, beside the same by this project's driver on a device of its own."""
    request = encode_request(GetApiRevReq())
    device = BenchDevice()
    try:
        with device.controller(DriverOptions()) as controller, _programs(()) as programs:
            series = interleave(
                {
                    **{way: program.run for way, program in programs.items()},
                    "exchange": lambda seconds: timed(
                        lambda: controller.exchange(request, ControlKind.NONE, None), seconds
                    ),
                },
                pairs=PAIRS,
            )
    finally:
        device.close()
    return [
        throughput(
            f"kmod-{way}",
            {name: series[name] for name in (way, "exchange")},
            ratios({name: series[name] for name in (way, "exchange")}, way, lambda sample: sample.wall_per_op_s),
            ratio_clock=WALL,
        )
        for way in WAYS
    ]


def _ways() -> list[Result]:
    """With a driver that does nothing: CPU time of both sides per ioctl, and what is left of many opens and closes."""
    results = []
    with _on_one_processor(), _programs(["--empty"]) as programs:
        series = interleave({way: program.run for way, program in programs.items()}, pairs=PAIRS)
        for way, program in programs.items():
            program.order("open", WARM_UP_OPENINGS)
            before = program.holds()
            program.order("open", OPENINGS)
            left = [now - then for now, then in zip(program.holds(), before, strict=True)]
            value = statistics.median(sample.client_cpu_per_op_s for sample in series[way]) * 1e6
            more = {"openings": OPENINGS, "descriptors_left": left[0], "threads_left": left[1]}
            results.append(Result(f"kmod-{way}-way", value, "us", clock=CPU, runs={way: series[way]}, more=more))
    return results
