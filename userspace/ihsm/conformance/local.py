# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A machine in this process: programs are threads of ours, and its clock stands still until it may move.

Time passes only when the driver waits for it. Nothing of the driver runs, and the device has done what it will; only
then is the clock moved to what is due next. So no command times out because this computer is slow.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ihsm.chardev import Calls
from ihsm.conformance.calls import CallEnd, CallResult, User, failed
from ihsm.conformance.drivers import LocalDriver, LocalMachine, LocalProcess
from ihsm.conformance.recorder import Recorder
from ihsm.conformance.scenario import Act, Op, Program
from ihsm.control import ControlClient
from ihsm.errors import IhsmError
from ihsm.trace.rules import Limits

LOOK_S: Final = 0.005
SETTLE_S: Final = 0.03
"""Real seconds without any change, after a fault was hit: what the device was to do it has done."""
ANSWERED_S: Final = 0.5
"""The same where no fault was hit, and every command has an answer that the driver has taken: it does not know it."""
ANNOUNCED_S: Final = Limits().head_s + 1
"""The same where the driver has left an answer where it is: rules give it that long."""
AGAIN_S: Final = 0.1
"""The same once it is known that this driver misses answers."""
PATIENCE_S: Final = 10.0
"""The same where the device still has commands: it is slow."""
POLLS: Final = 200
"""A driver that has read a register so often without a pause waits for it to change."""
POLL_STEP_S: Final = 0.5
"""How far the clock moves for such a driver."""
IDLE_STEP_S: Final = 5.0
"""The same where nothing is due."""
END_S: Final = 60.0


class _Threads:
    """A program's threads, or an act's one."""

    def __init__(self, machine: LocalMachine, what: Program | Act) -> None:
        self._what = what
        self._machine = machine
        self._lock = threading.Lock()
        self._results: list[CallResult] = []
        self._processes: list[LocalProcess] = []
        if isinstance(what, Act):
            self._threads = [threading.Thread(target=self._act, args=(what,), daemon=True)]
        else:
            self._threads = []
            for _ in range(what.processes):
                process = machine.process()
                self._processes.append(process)
                self._threads.append(threading.Thread(target=self._process, args=(process, what), daemon=True))
        for thread in self._threads:
            thread.start()

    def _note(self, result: CallResult) -> CallEnd:
        with self._lock:
            self._results.append(result)
        return result.end

    def _act(self, act: Act) -> None:
        try:
            self._machine.act(act)
            self._note(CallResult(act, CallEnd.SUCCEEDED))
        except OSError as error:
            self._note(failed(act, error.errno or 0))
        except BaseException as error:  # the end of a kernel is none of the usual ones
            self._note(self._broken(act, error))

    def _process(self, process: LocalProcess, program: Program) -> None:
        """One process: opens the node, starts its other threads."""
        nodes = self._machine.nodes
        calls = Calls(process.open, process.ioctl, process.close)
        if not nodes:
            self._note(CallResult("open", CallEnd.FAILED, "the driver has no node"))
            return
        try:
            user = User(calls, nodes[0], program.op)
        except OSError as error:
            self._note(failed("open", error.errno or 0))
            return
        except BaseException as error:  # the end of a kernel is none of the usual ones
            self._note(self._broken("open", error))
            return
        others = [
            threading.Thread(target=self._thread, args=(user, program), daemon=True) for _ in range(program.threads - 1)
        ]
        for other in others:
            other.start()
        self._thread(user, program)
        for other in others:
            other.join()
        try:
            user.close()
        except BaseException as error:  # the end of a kernel is none of the usual ones
            self._note(self._broken("close", error))

    def _thread(self, user: User, program: Program) -> None:
        for _ in range(program.count):
            try:
                result = user.call()
            except BaseException as error:  # the end of a kernel is none of the usual ones
                result = self._broken(program.op, error)
            if self._note(result) in (CallEnd.KILLED, CallEnd.CRASHED):
                return

    def _broken(self, what: str, error: BaseException) -> CallResult:
        """A call that raised what no call raises: its kernel has ended, or this program is wrong."""
        if reason := self._machine.crashed():
            return CallResult(what, CallEnd.CRASHED, reason)
        return CallResult(what, CallEnd.WRONG, f"{type(error).__name__}: {error}")

    @property
    def is_over(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def results(self) -> Sequence[CallResult] | None:
        """As of `Running`."""
        return self._results if self.is_over else None

    def kill(self, number: int) -> bool:
        """As of `Running`: there is no signal but the one that ends a process."""
        import signal

        if number != signal.SIGKILL:
            return False
        for process in self._processes:
            process.kill()
        return True

    def ended(self) -> int:
        """As of `Running`."""
        with self._lock:
            return len(self._results)


class LocalRig:
    """A rig over a machine in this process."""

    def __init__(
        self,
        driver: LocalDriver,
        variant: Mapping[str, Any],
        socket_path: Path,
        recorder: Recorder,
    ) -> None:
        """Boot one.

        Args:
            driver: whose machine it is.
            variant: of the driver's.
            socket_path: of the device.
            recorder: of the device; it is told how the clock is moved.

        Raises:
            IhsmError: it does not come up.
        """
        self._stack = contextlib.ExitStack()
        self.socket_path = socket_path
        self._recorder = recorder
        self._control = self._stack.enter_context(ControlClient(socket_path))
        self._machine = self._stack.enter_context(driver.machine(variant, socket_path))
        self._seen: object = None
        self._since = time.monotonic()
        self._lines = 0
        self._has_missed = False
        self._started: list[_Threads] = []

    def start(self, what: Program | Act) -> _Threads:
        """As of `Rig`."""
        started = _Threads(self._machine, what)
        self._started.append(started)
        return started

    def offers(self, op: Op) -> bool:
        """As of `Rig`: ours do everything."""
        return True

    def begins(self, sleep_limit_s: float) -> None:
        """As of `Rig`: the machine's kernel has a limit of its own."""

    def now_s(self) -> float:
        """As of `Rig`."""
        return self._machine.now_s()

    def pass_time(self, settle_s: float | None) -> None:
        """As of `Rig`: look once, and move the clock if only that helps."""
        is_polling = self._machine.polls() >= POLLS
        if not is_polling and not self._machine.is_idle():
            self._seen = None
            time.sleep(LOOK_S)
            return
        seen, is_answered, is_taken = self._device()
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since = seen, now
        missed_s = AGAIN_S if self._has_missed else ANSWERED_S if is_taken else ANNOUNCED_S
        usual_s = missed_s if is_answered else PATIENCE_S
        patience_s = usual_s if settle_s is None else SETTLE_S + settle_s
        if now - self._since < patience_s:
            time.sleep(LOOK_S)
            return
        self._seen = None
        self._has_missed = self._has_missed or (settle_s is None and is_answered and not is_polling)
        due = [seconds for seconds in self._machine.timers() if seconds > 0]
        step_s = min([POLL_STEP_S if is_polling else IDLE_STEP_S, *due[:1]])
        self._recorder.clock_moves(step_s)
        self._machine.advance(step_s)

    def _device(self) -> tuple[object, bool, bool]:
        """What the device does, to compare; whether every command has an answer; whether the driver has taken all."""
        try:
            status = self._control.status()
        except IhsmError as error:
            return str(error), True, True
        queues = status["queues"]
        seen = [(queue["queue_id"], queue["sq_head"], queue["sq_tail"], queue["cq_tail"]) for queue in queues]
        outstanding = self._recorder.outstanding
        is_answered = not len(outstanding) and all(queue["sq_head"] == queue["sq_tail"] for queue in queues)
        is_taken = all(queue["cq_head"] == queue["cq_tail"] for queue in queues)
        return (seen, outstanding.events, status["registers"]), is_answered, is_taken

    def log(self) -> Sequence[str]:
        """As of `Rig`."""
        lines = self._machine.log_lines()
        new, self._lines = lines[self._lines :], len(lines)
        return new

    def resources(self) -> Mapping[str, int]:
        """As of `Rig`."""
        return self._machine.resources()

    def crashed(self) -> str:
        """As of `Rig`."""
        return self._machine.crashed()

    def close(self) -> None:
        """As of `Rig`: programs that still wait end with their kernel."""
        self._stack.close()
        for started in self._started:
            for thread in started._threads:
                thread.join(END_S)
