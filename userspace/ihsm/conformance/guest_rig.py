# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that has the driver: programs run in it, an agent there does what is asked for."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ihsm.conformance.calls import CallEnd, CallResult
from ihsm.conformance.scenario import Act, Op, Program
from ihsm.errors import IhsmError
from ihsm.guest.errors import GuestError, GuestTimeoutError
from ihsm.guest.initramfs import GuestCommand, Mode
from ihsm.guest.runner import GuestConfig, RunningGuest
from ihsm.guest.session import current_folder, guest_environment
from ihsm.guest.streams import Streams

_LOOK_S: Final = 0.05
_ANSWER_S: Final = 90.0
"""An agent that does not answer for so long will not."""
_BOOT_S: Final = 300.0


class GuestProgram:
    """A program or an act in the guest."""

    def __init__(self, rig: GuestRig, number: int, what: Program | Act) -> None:
        """Made by `GuestRig.start`."""
        self._rig = rig
        self._number = number
        self._what = what
        self.found: list[CallResult] = []
        self.is_over = False

    def results(self) -> Sequence[CallResult] | None:
        """As of `Running`; of a guest that has ended, its calls have ended with it."""
        if self.is_over:
            return self.found
        reason = self._rig.crashed()
        if not reason:
            return None
        if self._rig.is_off:
            return [*self.found, CallResult(str(self._what), CallEnd.SUCCEEDED)]
        return [*self.found, CallResult(str(self._what), CallEnd.CRASHED, reason)]

    def ended(self) -> int:
        """As of `Running`."""
        return len(self.found)

    def kill(self, number: int) -> bool:
        """As of `Running`."""
        self._rig.ask({"kill": self._number, "signal": number})
        return True


class GuestRig:
    """A rig over a guest."""

    def __init__(self, config: GuestConfig, driver: str, exercise: Path | None, socket_path: Path) -> None:
        """Boot it, and wait for its agent.

        Args:
            config: with the modules and the device.
            driver: name of the module under test.
            exercise: a program of its own to use the driver with.
            socket_path: of the device.

        Raises:
            GuestError: it does not come up, or has no function of the device.
        """
        self.socket_path = socket_path
        self.is_off = False
        self._exercise = exercise
        self._programs: dict[int, GuestProgram] = {}
        self._lock = threading.Condition()
        self._ended = ""
        self._ready: dict[str, Any] | None = None
        self._looked: dict[str, Any] | None = None
        self._lines: list[str] = []
        """Of the kernel's log, which nobody has asked for yet: they come with every look."""
        self._told: set[str] = set()
        self._error: Exception | None = None
        words = [sys.executable, "-P", "-m", "ihsm.conformance.agent", driver, *([str(exercise)] if exercise else [])]
        command = GuestCommand(shlex.join(words), current_folder(), guest_environment())
        self._stack = contextlib.ExitStack()
        try:
            self._boot(config, command)
        except BaseException:
            self._stack.close()
            raise

    def _boot(self, config: GuestConfig, command: GuestCommand) -> None:
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        stdin = self._stack.enter_context(os.fdopen(theirs_in, "rb", buffering=0))
        self._asks = self._stack.enter_context(os.fdopen(ours_in, "wb", buffering=0))
        stdout = self._stack.enter_context(os.fdopen(theirs_out, "wb", buffering=0))
        answers = self._stack.enter_context(os.fdopen(ours_out, "rb", buffering=0))
        stderr = self._stack.enter_context(os.fdopen(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), "wb"))
        self._guest = RunningGuest(config, command, Mode.EXEC)
        self._runner = threading.Thread(target=self._run, args=(Streams(stdin, stdout, stderr),), daemon=True)
        self._reader = threading.Thread(target=self._read, args=(answers,), daemon=True)
        self._stdout = stdout
        self._stack.callback(self._join)
        self._stack.callback(self._guest.close)
        self._runner.start()
        self._reader.start()
        with self._lock:
            self._lock.wait_for(lambda: self._ready is not None or self._ended, _BOOT_S)
        if isinstance(self._error, GuestError):
            raise self._error
        if self._ready is None:
            raise GuestTimeoutError("the agent in the guest does not answer", [])
        if not self._ready["bdf"]:
            raise GuestError("the guest has no function of the device")

    def _run(self, streams: Streams) -> None:
        try:
            status = self._guest.first(streams)
            reason = f"the agent in the guest ended with status {status}"
        except Exception as error:
            self._error = error
            reason = str(error).splitlines()[0]
        with self._lock:
            self._ended = reason
            self._lock.notify_all()
        with contextlib.suppress(OSError, ValueError):
            self._stdout.close()

    def _read(self, answers: Any) -> None:
        held = b""
        while data := answers.read(1 << 16):
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError), self._lock:
                    self._hear(json.loads(line))
                    self._lock.notify_all()

    def _hear(self, record: dict[str, Any]) -> None:
        match record:
            case {"ready": _}:
                self._ready = record
            case {"ended": number, "result": result}:
                self._programs[number].found.append(CallResult.from_json(result))
            case {"over": number}:
                self._programs[number].is_over = True
            case {"log": lines}:
                self._lines += lines
                self._looked = record

    def ask(self, record: Mapping[str, Any]) -> None:
        """Have the agent do something; nothing happens in a guest that has ended."""
        with contextlib.suppress(OSError, ValueError):
            self._asks.write(json.dumps(record).encode() + b"\n")

    def start(self, what: Program | Act) -> GuestProgram:
        """As of `Rig`."""
        number = len(self._programs) + 1
        started = GuestProgram(self, number, what)
        with self._lock:
            self._programs[number] = started
        if what is Act.SHUTDOWN:
            self.is_off = True
        named = {"act": str(what)} if isinstance(what, Act) else {"program": asdict(what)}
        self.ask({"start": number, **named})
        return started

    def offers(self, op: Op) -> bool:
        """As of `Rig`: a program that is not ours is told what is wanted, and does what its driver can."""
        return self._exercise is None or op in (Op.INFORMATION, Op.COMMAND)

    def begins(self, sleep_limit_s: float) -> None:
        """As of `Rig`."""
        self.ask({"begins": round(sleep_limit_s)})

    def pass_time(self, settle_s: float | None) -> None:
        """As of `Rig`: it passes by itself."""
        with self._lock:
            self._lock.wait(_LOOK_S)

    def now_s(self) -> float:
        """As of `Rig`."""
        return time.monotonic()

    def _look(self) -> dict[str, Any]:
        with self._lock:
            self._looked = None
        self.ask({"look": True})
        with self._lock:
            self._lock.wait_for(lambda: self._looked is not None or self._ended, _ANSWER_S)
            if self._looked is None and not self._ended:
                self._ended = "the agent in the guest does not answer any more"
            return self._looked or {"resources": {}}

    def log(self) -> Sequence[str]:
        """As of `Rig`; when the guest has died, what its kernel complained of then."""
        self._look()
        with self._lock:
            lines, self._lines = self._lines, []
        if self._ended and not self.is_off:
            for complaint in self._guest.complaints():
                if complaint.title not in self._told:
                    self._told.add(complaint.title)
                    lines += complaint.lines
        return lines

    def resources(self) -> Mapping[str, int]:
        """As of `Rig`."""
        found: dict[str, int] = self._look()["resources"]
        return found

    def crashed(self) -> str:
        """As of `Rig`."""
        return self._ended

    def _join(self) -> None:
        self._runner.join()
        with contextlib.suppress(OSError, ValueError):
            self._stdout.close()
        self._reader.join()

    def close(self) -> None:
        """As of `Rig`."""
        self._guest.kill()
        self._stack.close()


class NoModuleError(IhsmError):
    """The driver under test is a module, and none was named."""

    exit_code = 2
