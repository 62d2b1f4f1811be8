# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What traces cost: GCM of 64 bytes by devices that are recorded, that are not, and that cannot be, in turn.

Costs are CPU time of the thread that serves the rings: what is done on the way of a command. Handing the records on is
another thread's work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ihsm.bench.device import BenchDevice, provisioned
from ihsm.bench.results import Result, throughput
from ihsm.bench.rings import BenchLoopError
from ihsm.bench.sample import Runner, Sample, interleave, spread_of
from ihsm.bench.setups import THROUGHPUT_DEVICE, Place
from ihsm.bench.workloads import AesWork, aes_work
from ihsm.control import ControlClient
from ihsm.driver import DriverOptions
from ihsm.embedded import POLL_INTERVAL_S, START_TIMEOUT_S
from ihsm.errors import ControlError, IhsmError
from ihsm.kept import MODULE_OPTIONS, Kept
from ihsm.trace.live import TraceReader
from ihsm_abi.control import ControlErrorCode

WITHOUT: Final = "IHSM_BENCH_WITHOUT_HOOKS"
"""Environment variable: a native module of the device that was built with -Dtrace_hooks=false."""
TEXT_BYTES: Final = 64
DEPTH, BATCH = 192, 64
PAIRS: Final = 15
_SITE: Final = """\
import importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "ihsm_device._native":
            return importlib.util.spec_from_file_location(name, {module!r})

sys.meta_path.insert(0, Finder)
"""
"""Has a Python that starts take another native module for the device's."""


class OtherBuildError(IhsmError):
    """The build without hooks that was named is none."""


def trace(place: Place, advance: Callable[[str], None]) -> list[Result]:
    """The rate without a reader, beside one with a reader and, where one is named, a build without hooks."""
    del place  # it takes devices of its own
    costs: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        plain, recorded = BenchDevice(THROUGHPUT_DEVICE), BenchDevice(THROUGHPUT_DEVICE)
        variants = {
            "off": _Variant(plain, _runner(stack, plain)),
            "on": _Variant(recorded, _runner(stack, recorded)),
        }
        _record(stack, recorded)
        if os.environ.get(WITHOUT):
            with _other_module(Path(os.environ[WITHOUT])):
                bare = BenchDevice(THROUGHPUT_DEVICE)
            variants["without"] = _Variant(bare, _runner(stack, bare))
            _require_bare(bare)
        series = interleave(dict(variants), pairs=PAIRS)
        costs = {name: variant.costs_ns[-PAIRS:] for name, variant in variants.items()}
    found = throughput(f"trace-gcm-{TEXT_BYTES}", series, {}, **_more(costs))
    advance(found.id)
    return [found]


def _more(costs: dict[str, list[float]]) -> dict[str, Any]:
    """What is found in pairs of runs one after the other."""
    extra = [on - off for on, off in zip(costs["on"], costs["off"], strict=True)]
    more: dict[str, Any] = {
        "bytes": TEXT_BYTES,
        "depth": DEPTH,
        "serving_cpu_ns": {name: statistics.median(values) for name, values in costs.items()},
        "on_extra_ns": statistics.median(extra),
    }
    if "without" in costs:
        pairs = [off / bare for off, bare in zip(costs["off"], costs["without"], strict=True)]
        ratio, spread = statistics.median(pairs), spread_of(pairs) or 0.0
        more |= {"off_over_without": ratio, "pairs_spread": spread, "off": ratio if ratio > 1 + spread else 1.0}
    return more


class _Variant:
    """A device under load, and CPU time per command of the thread that serves its rings."""

    def __init__(self, device: BenchDevice, run: Runner) -> None:
        self._device = device
        self._run = run
        self.costs_ns: list[float] = []

    def __call__(self, seconds: float) -> Sample:
        before = self._threads()
        sample = self._run(seconds)
        after = self._threads()
        # the busiest: others make keys ahead, and one hands records on
        busiest = max(spent - before.get(thread, 0) for thread, spent in after.items())
        self.costs_ns.append(busiest / max(sample.operations, 1))
        return sample

    def _threads(self) -> dict[str, int]:
        """CPU time of each of the device's threads, in nanoseconds."""
        found = {}
        for task in Path(f"/proc/{self._device.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found[task.name] = int((task / "schedstat").read_text().split()[0])
        return found


def _runner(stack: contextlib.ExitStack, device: BenchDevice) -> Runner:
    """GCM on a function of a device, for the life of the stack."""
    stack.callback(device.close)
    options = DriverOptions(interrupts=False, hsm_queues=1, aes_queues=1, aes_entries=256)
    controller, session = stack.enter_context(provisioned(device, options))
    work: AesWork = stack.enter_context(aes_work(controller, session, "gcm", TEXT_BYTES, load=device.load))
    return functools.partial(work.run, depth=DEPTH, batch=BATCH)


def _record(stack: contextlib.ExitStack, device: BenchDevice) -> None:
    """Have a process read the trace from now on."""
    address = os.fspath(device.process.socket_path)
    kept = stack.enter_context(contextlib.closing(Kept("ihsm-")))
    kept.start(
        [sys.executable, *MODULE_OPTIONS, "ihsm", "trace", "--device", f"vfio-user:{address}", "--write", os.devnull]
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    with ControlClient(address) as client:
        while not client.mark("measured from here on"):
            if time.monotonic() > deadline or kept.wait(0) is not None:
                raise BenchLoopError("ihsm trace did not begin to record")
            time.sleep(POLL_INTERVAL_S)


@contextlib.contextmanager
def _other_module(module: Path) -> Iterator[None]:
    """Devices that are started meanwhile have this native module."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory(prefix="ihsm-bench-") as folder:
        Path(folder, "sitecustomize.py").write_text(_SITE.format(module=os.fspath(module.absolute())))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _require_bare(device: BenchDevice) -> None:
    """Raises OtherBuildError where the device has hooks after all."""
    try:
        TraceReader(device.process.socket_path).close()
    except ControlError as error:
        if error.code == ControlErrorCode.NO_TRACES:
            return
        raise
    raise OtherBuildError(f"{WITHOUT}={os.environ[WITHOUT]}: this build has hooks; build it with -Dtrace_hooks=false")
