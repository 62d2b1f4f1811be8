# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A scenario, performed on a machine: what was seen of each call, and whether the driver works afterwards."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Final

from ihsm.conformance.calls import CallEnd, CallResult
from ihsm.conformance.drivers import Rig, Running
from ihsm.conformance.findings import Finding, Witness
from ihsm.conformance.scenario import (
    Act,
    AwaitHit,
    Clear,
    Elapse,
    Ends,
    Finish,
    Inject,
    Kill,
    Op,
    Program,
    Recovery,
    Run,
    Scenario,
    Start,
    Step,
)
from ihsm.errors import CommandSeenError, IhsmError
from ihsm.testing import DeviceFault, DeviceFaults
from ihsm.trace.rules import Limits
from ihsm_abi.fault_words import to_text

AFTERWARDS_S: Final = 60.0
"""Seconds of the driver's time in which it recovers by itself: its health monitor looks each 6 s."""
LOOKS: Final = 12
"""How often a program looks in that time whether it works again."""
HIT_S: Final = 10.0
"""Until a fault is hit that no program makes the driver meet."""
_LOOK_S: Final = 1.0
"""From one look at what is outstanding to the next."""
DELAYS: Final = 3
"""Times its delay, until what a device puts off has surely been done."""
SHOWN: Final = 12
"""Calls that a finding lists."""
_BAD_ENDS: Final = {
    CallEnd.WRONG: ("answer-is-right", "succeeded with a wrong answer"),
    CallEnd.CRASHED: ("kernel-survives", "ended with its kernel"),
}


def _has_moved(running: Running, ended: int) -> bool:
    """Whether more calls than so many have ended, or all."""
    return running.results() is not None or running.ended() != ended


class SkippedError(IhsmError):
    """The scenario cannot be carried out, or not to its point; the message says why."""


@dataclass
class Performance:
    """One scenario on one rig."""

    scenario: Scenario
    rig: Rig
    seed: int
    outstanding: Sized = ()
    """Commands that the device has fetched and not answered, as its trace tells: it knows how many there are now."""
    findings: list[Finding] = field(default_factory=list)
    after_binds: list[Mapping[str, int]] = field(default_factory=list)
    """What the kernel had given away after each bind that was a step, and what came after it."""
    is_healthy: bool = True
    """Whether the driver works afterwards, so that others may be tried on the same machine."""

    def run(self) -> None:
        """Carry it out; findings of the program say what was not as it should be.

        Raises:
            SkippedError: it did not come to its point.
        """
        self._random = random.Random(f"{self.seed}:{self.scenario.name}")
        self._started: dict[str, Running] = {}
        self._fault: DeviceFault | None = None
        self._settle_s: float | None = None
        self._is_over = False
        for op in sorted(self.scenario.needs):
            if not self.rig.offers(op):
                raise SkippedError(f"the program that uses the driver does not do it: {op}")
        with DeviceFaults(self.rig.socket_path) as self._faults:
            try:
                self._all_steps()
                self._faults.clear()
                if not self._is_over:
                    self._recovers()
                    self._leaves_none()
            except CommandSeenError as error:
                self._find("command-not-sent", str(error))
                self._give_up()
            except SkippedError:
                self._faults.clear()
                self._give_up()
                raise
            except BaseException:
                self.is_healthy = False
                raise
            finally:
                self._fault = None
        self.is_healthy = self.is_healthy and not (self._is_over or self.scenario.spoils or self.rig.crashed())

    def _find(self, rule: str, message: str, proof: Sequence[object] = ()) -> None:
        shown = [str(one) for one in proof]
        self.findings.append(Finding(Witness.PROGRAM, rule, self.scenario.section, message, tuple(shown[:SHOWN])))

    # Steps.

    def _all_steps(self) -> None:
        is_bound = False
        for step in self.scenario.steps:
            if is_bound and step == Run(Act.UNBIND):
                self.after_binds.append(self.rig.resources())
            self._step(step)
            is_bound = is_bound or step == Run(Act.BIND)
            if self._is_over:
                return
        if is_bound:
            self.after_binds.append(self.rig.resources())

    def _step(self, step: Step) -> None:
        match step:
            case Run(what, ends):
                self._end(str(what), self.rig.start(what), ends)
            case Start(name, what):
                self._started[name] = self.rig.start(what)
            case Finish(name, ends):
                self._end(name, self._started.pop(name), ends)
            case Kill(name, number):
                if not self._started[name].kill(number):
                    raise SkippedError(f"this machine has no signal {number}")
            case Inject(fault, among):
                if among:
                    fault = replace(fault, when=replace(fault.when, nth=self._random.randint(1, among)))
                self._fault, self._settle_s = self._faults.add_fault(fault), None
            case AwaitHit(hits):
                self._await_hit(hits)
            case Clear():
                self._faults.clear()
                self._fault = None
            case Elapse(seconds):
                self._elapse(seconds)

    def _await_hit(self, hits: int) -> None:
        """Wait for a hit; a program that ends before has not come there."""
        fault = self._fault
        assert fault is not None, f"{self.scenario.name}: no fault to wait for"
        limit_s = self.scenario.limit_s if self._started else HIT_S
        self._wait(lambda: fault.hits >= hits or self._all_ended(), limit_s)
        if fault.hits < hits:
            raise SkippedError(f"the driver did not come to where the device does it: {to_text(fault.fault)}")

    def _all_ended(self) -> bool:
        return bool(self._started) and all(running.results() is not None for running in self._started.values())

    def _settling_s(self) -> float | None:
        """How long the device may take for the fault, once one has been hit."""
        if self._settle_s is None and self._fault is not None:
            with contextlib.suppress(IhsmError):
                if self._fault.hits:
                    delay_ms = self._fault.fault.parameters.get("ms", 0)
                    self._settle_s = DELAYS * float(delay_ms) / 1000
        return self._settle_s

    def _wait(self, is_done: Callable[[], bool], limit_s: float) -> bool:
        """Let time pass until something is so; False if it is not within so many seconds of the driver's time."""
        end_s = self.rig.now_s() + limit_s
        while not is_done():
            if self.rig.now_s() > end_s:
                return False
            self.rig.pass_time(self._settling_s())
        return True

    def _elapse(self, seconds: float) -> None:
        """Let so many seconds of the driver's time pass: nobody waits for the device, or all the time it needs."""
        before, self._settle_s = self._settle_s, self._settling_s() or 0.0
        until_s = self.rig.now_s() + seconds
        self._wait(lambda: self.rig.now_s() >= until_s, seconds + self.scenario.limit_s)
        self._settle_s = before

    def _end(self, name: str, running: Running, ends: Ends) -> None:
        """Wait for what was started, and judge how its calls ended."""
        if not self._ended(name, running):
            return
        results = running.results() or ()
        self._judge(name, results, ends)

    def _ended(self, name: str, running: Running) -> bool:
        """Whether all calls end, none later than the limit after the one before."""
        ended = -1
        while running.results() is None:
            if running.ended() == ended:
                text = f"{name}: {ended} calls have ended, and no other within {self.scenario.limit_s:g} s"
                self._find("call-ends", text)
                self._is_over = True
                return False
            ended = running.ended()
            self._wait(functools.partial(_has_moved, running, ended), self.scenario.limit_s)
        return True

    def _judge(self, name: str, results: Sequence[CallResult], ends: Ends) -> None:
        if results and all(result.is_unsupported for result in results):
            raise SkippedError(f"{name}: the driver does not offer it: {results[0]}")
        for end, (rule, text) in _BAD_ENDS.items():
            if ends is Ends.GARBLED and end is CallEnd.WRONG:
                continue
            if bad := [result for result in results if result.end is end]:
                self._find(rule, f"{name}: {len(bad)} of {len(results)} calls {text}: {bad[0]}", bad)
                self._is_over = self._is_over or end is CallEnd.CRASHED
        failures = [result for result in results if result.end is CallEnd.FAILED]
        if ends is Ends.WELL and failures:
            text = f"{name}: {len(failures)} of {len(results)} calls failed: {failures[0]}"
            self._find("call-succeeds", text, failures)
        if ends is Ends.TOLD and not any(result.end is not CallEnd.SUCCEEDED for result in results):
            self._find("failure-is-told", f"{name}: all calls succeeded, though one was not carried out", results)

    # Afterwards.

    def _give_up(self) -> None:
        """The scenario ends here: what it has begun comes to its end, and others may follow if the driver works."""
        for name, running in self._started.items():
            self._end(name, running, Ends.ANYHOW)
        self._started.clear()
        self.is_healthy = not self._is_over and (self._tried(self._probe) is None or self._rebinds() is None)

    def _recovers(self) -> None:
        """See that the driver works, with no more help than it may need."""
        scenario = self.scenario
        if scenario.recovery is Recovery.NONE:
            return
        before = len(self.findings)
        last = self._works_soon() if scenario.recovery is Recovery.ITSELF else self._tried(self._probe)
        if last is None:
            return
        if self._is_over or len(self.findings) > before:
            self.is_healthy = False
            return
        helped = self._rebinds()
        if helped is not None:
            self._find("driver-recovers", f"it does not work, after unbind and bind either: {helped}", [last, helped])
            self.is_healthy = False
        elif scenario.recovery is Recovery.ITSELF:
            self._find("driver-recovers", f"it works only after unbind and bind: {last}", [last])

    def _leaves_none(self) -> None:
        """Give the driver the time that rules give it, where a command has no answer and its queue is still there.

        One that recovers from a time-out has none left; of one that does not nobody would know, for its time is not
        over when the program has been told of the failure.
        """
        until_s = self.rig.now_s() + Limits().answer_s + _LOOK_S
        while len(self.outstanding) and self.rig.now_s() < until_s:
            self._elapse(_LOOK_S)
        if len(self.outstanding):  # the end of this machine is that of its trace, which is judged then
            self.is_healthy = False

    def _works_soon(self) -> CallResult | None:
        """None if a command succeeds, or one soon after; otherwise how the last one failed."""
        end_s = self.rig.now_s() + AFTERWARDS_S
        while True:
            last = self._tried(self._probe)
            if last is None or self._is_over or self.rig.now_s() >= end_s:
                return last
            if last.end is not CallEnd.FAILED:
                return last
            self._elapse(AFTERWARDS_S / LOOKS)

    @property
    def _probe(self) -> Program:
        """What shows whether the driver works."""
        return Program(Op.COMMAND if Op.COMMAND in self.scenario.needs else Op.INFORMATION)

    def _tried(self, what: Program | Act) -> CallResult | None:
        """None if it succeeds, otherwise how it failed."""
        running = self.rig.start(what)
        if not self._ended(f"afterwards, {what}", running):
            return CallResult(str(what), CallEnd.FAILED, "does not end")
        for result in running.results() or ():
            if result.end is not CallEnd.SUCCEEDED:
                if result.end in _BAD_ENDS:
                    self._judge("afterwards", [result], Ends.ANYHOW)
                return result
        return None

    def _rebinds(self) -> CallResult | None:
        """Unbind and bind: None if it works then."""
        self._tried(Act.UNBIND)
        if self._is_over:
            return CallResult(Act.UNBIND, CallEnd.FAILED, "does not end")
        return self._tried(Act.BIND) or self._works_soon()
