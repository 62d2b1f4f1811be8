# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A run: scenarios shared among machines, and the witnesses' findings put to each.

Scenarios that leave the driver healthy share a machine; one that does not is its machine's last.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ihsm.conformance.drivers import Driver, LocalDriver, Rig
from ihsm.conformance.findings import Finding, Result, Suite, Witness
from ihsm.conformance.leaks import leak_findings
from ihsm.conformance.local import LocalRig
from ihsm.conformance.log import is_quiet, log_findings
from ihsm.conformance.perform import Performance, SkippedError
from ihsm.conformance.recorder import Recorder
from ihsm.conformance.scenario import Scenario
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import IhsmError
from ihsm.testing import faulty_device
from ihsm_abi.uapi_names import DRIVER_NAME

SLEEP_LIMIT_S: Final = 20.0
"""A task that sleeps for so long, while nothing is wrong with the device, hangs."""
DISTURBED_SLEEP_LIMIT_S: Final = 60.0
"""The same where a driver may wait for an answer that does not come: an admin command has 30 s."""
FAILED_BOOTS: Final = 2
"""So many machines in a row that do not come up end the run."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How scenarios are carried out."""

    seed: int = 0
    variants: Sequence[Mapping[str, Any]] | None = None
    """Kinds of machines, None for all that the driver has."""
    tell: Callable[[Result], None] = lambda result: None
    """Told of each scenario as soon as programs and log have had their say; the trace is judged at the end."""


def run(driver: Driver, scenarios: Sequence[Scenario], options: RunOptions) -> list[Suite]:
    """Carry out scenarios, and judge."""
    suites: list[Suite] = []
    for variant in driver.variants if options.variants is None else options.variants:
        suites += _Shared(driver, variant, scenarios, options).run()
    return suites


@dataclass
class _Shared:
    """The scenarios of one kind of machine, which several machines take from."""

    driver: Driver
    variant: Mapping[str, Any]
    scenarios: Sequence[Scenario]
    options: RunOptions
    suites: list[Suite] = field(default_factory=list)

    def run(self) -> list[Suite]:
        self._left = deque(self.scenarios)
        self._lock = threading.Lock()
        self._failed_boots = 0
        self._error: BaseException | None = None
        parallel = 1 if isinstance(self.driver, LocalDriver) else self.driver.parallel
        # Who interrupts a run does not wait for them: machines and devices end with their threads or with the process.
        workers = [threading.Thread(target=self._work, daemon=True) for _ in range(min(parallel, len(self.scenarios)))]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join()
        except BaseException as error:
            self._error = error
            raise
        if self._error is not None:
            raise self._error
        return self.suites

    def _work(self) -> None:
        try:
            while self._left and self._failed_boots < FAILED_BOOTS and self._error is None:
                self._use_machine()
            with self._lock:
                if self._left and self._failed_boots >= FAILED_BOOTS:
                    suite = self._suite()
                    suite.results += [Result(one.name, skipped="the machine does not come up") for one in self._left]
                    self._left.clear()
        except BaseException as error:  # ends the run, in the thread that has started it
            self._error = error

    def _next(self, *, is_first: bool = True) -> Scenario | None:
        """What comes next, unless it needs a machine for itself and this one has been used."""
        with self._lock:
            is_own = bool(self._left) and bool(self._left[0].from_start)
            return self._left.popleft() if self._left and (is_first or not is_own) else None

    def _suite(self) -> Suite:
        words = [str(value) for value in self.variant.values()]
        name = "-".join([*words, str(len(self.suites) + 1)])
        properties = {**self.driver.properties(), "seed": str(self.options.seed)}
        properties |= {f"machine.{key}": str(value) for key, value in self.variant.items()}
        suite = Suite(name, properties)
        self.suites.append(suite)
        return suite

    def _use_machine(self) -> None:
        """Boot one, and carry out what it survives."""
        scenario = self._next()
        if scenario is None:
            return
        with self._lock:
            suite = self._suite()
        try:
            device = self._device(stack := contextlib.ExitStack(), scenario)
        except IhsmError as error:
            self._boot_failed(suite, scenario, error)
            return
        with stack:
            recorder = stack.enter_context(Recorder(device.socket_path))
            try:
                rig = self._rig(device, recorder)
            except IhsmError as error:
                self._boot_failed(suite, scenario, error)
                return
            self._failed_boots = 0
            try:
                self._perform_all(rig, recorder, suite, scenario)
                # Before the machine ends: what becomes of a driver that is turned off is not its doing.
                recorder.close()
            finally:
                rig.close()
            self._judge(recorder, suite)

    @staticmethod
    def _device(stack: contextlib.ExitStack, scenario: Scenario) -> EmbeddedDevice:
        """A device, until `stack` ends, that is wrong from its start where the scenario wants that."""
        faults = [{"action": str(fault.action), **fault.parameters} for fault in scenario.from_start]
        return stack.enter_context(faulty_device(*faults) if faults else EmbeddedDevice())

    def _rig(self, device: EmbeddedDevice, recorder: Recorder) -> Rig:
        if isinstance(self.driver, LocalDriver):
            return LocalRig(self.driver, self.variant, device.socket_path, recorder)
        return self.driver.rig(self.variant, device.socket_path)

    def _boot_failed(self, suite: Suite, scenario: Scenario, error: IhsmError) -> None:
        self._failed_boots += 1
        self._add(suite, Result(scenario.name, skipped=str(error).splitlines()[0]))

    def _add(self, suite: Suite, result: Result) -> None:
        suite.results.append(result)
        self.options.tell(result)

    def _perform_all(self, rig: Rig, recorder: Recorder, suite: Suite, first: Scenario) -> None:
        scenario: Scenario | None = first
        is_healthy = True
        while scenario is not None:
            begun = time.monotonic()
            recorder.begins(scenario.name)
            result, is_healthy = self._perform(rig, recorder, scenario)
            result.seconds = time.monotonic() - begun
            self._add(suite, result)
            scenario = self._next(is_first=False) if is_healthy and self._error is None else None

    def _perform(self, rig: Rig, recorder: Recorder, scenario: Scenario) -> tuple[Result, bool]:
        """One scenario; whether the machine is fit for another."""
        rig.begins(SLEEP_LIMIT_S if is_quiet(scenario) else DISTURBED_SLEEP_LIMIT_S)
        performance = Performance(scenario, rig, self.options.seed, recorder.outstanding)
        result = Result(scenario.name)
        try:
            performance.run()
        except SkippedError as error:
            result.skipped = str(error)
        result.findings += performance.findings
        result.findings += leak_findings(scenario.section, performance.after_binds)
        drivers = (DRIVER_NAME, *self.driver.names())
        found = log_findings(scenario, rig.log(), drivers)
        result.findings += found
        return result, performance.is_healthy and not found

    def _judge(self, recorder: Recorder, suite: Suite) -> None:
        """Put what the rules find to the scenarios."""
        by_name = {result.name: result for result in suite.results}
        tolerated = {scenario.name: scenario.tolerates for scenario in self.scenarios}
        for judged in recorder.judged():
            if judged.finding.rule not in tolerated.get(judged.scenario, {}):
                by_name.get(judged.scenario, suite.results[0]).findings.append(judged.finding)
        if recorder.failure:
            text = f"the trace is not whole: {recorder.failure}"
            suite.results[-1].findings.append(Finding(Witness.TRACE, "trace-whole", "-", text))
