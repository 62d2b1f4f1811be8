# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""In a guest: programs and acts as the host asks for them, a JSON object a line on standard input and output.

Each program's process and each act is a child: what a driver does to it, it does not do to this process.

| Asked | Answered |
|---|---|
| `{"start": n, "program": {…}}`, `{"start": n, "act": name}` | `{"ended": n, "result": {…}}` a call, `{"over": n}` |
| `{"kill": n, "signal": s}` | – |
| `{"begins": limit}`: a scenario in which tasks may sleep for so many seconds | – |
| `{"look": true}` | `{"log": [lines], "resources": {…}, "driver": name}`, of the log what is new |
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ihsm.chardev import SYSTEM
from ihsm.conformance.calls import CallEnd, CallResult, User, failed, nodes
from ihsm.conformance.leaks import OBJECTS
from ihsm.conformance.scenario import Act, Op, Program
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID

_PCI: Final = Path("/sys/bus/pci")
_HUNG: Final = Path("/proc/sys/kernel/hung_task_timeout_secs")
_NODE_S: Final = 5.0
"""What makes device nodes may take so long after a bind."""
_NODE_LOOK_S: Final = 0.02
_SAMPLES: Final = 4
_SAMPLE_S: Final = 0.05
"""What is freed after a grace period of RCU is freed meanwhile."""
_POWER_OFF: Final = 0x4321FEDC
_CHUNK: Final = 1 << 16


def find_function() -> str:
    """Address of the HSM's function; "" if there is none."""
    for device in sorted(_PCI.glob("devices/*")):
        with contextlib.suppress(OSError, ValueError):
            ids = [int((device / name).read_text(), 16) for name in ("vendor", "device")]
            if ids == [VENDOR_ID, DEVICE_ID]:
                return device.name
    return ""


def bound_driver(bdf: str) -> str:
    """Name of the driver that has a function; "" for none."""
    link = _PCI / "devices" / bdf / "driver"
    return link.resolve().name if bdf and link.exists() else ""


def resources(driver: str) -> dict[str, int]:
    """What the kernel has given away, by kind."""
    counts: dict[str, int] = {}
    for _ in range(_SAMPLES):
        for cache in Path("/sys/kernel/slab").glob("kmalloc-*"):
            with contextlib.suppress(OSError, ValueError):
                (cache / "shrink").write_text("1")  # else free objects of each processor count as used
                name, objects = f"{OBJECTS}{cache.name}", int((cache / "objects").read_text().split()[0])
                counts[name] = min(objects, counts.get(name, objects))
        time.sleep(_SAMPLE_S)
    counts["interrupts"] = len([line for line in _lines("/proc/interrupts") if line.lstrip()[:1].isdigit()])
    counts["I/O regions"] = len(_lines("/proc/iomem"))
    for line in _lines("/proc/modules"):
        name, _, references = line.split()[:3]
        if name.replace("-", "_") == driver.replace("-", "_"):
            counts["references to the module"] = int(references)
    return counts


def _lines(path: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(path).read_text().splitlines()
    return []


class KernelLog:
    """New lines of the kernel's log."""

    def __init__(self) -> None:
        """From now on."""
        self._file = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self._file, 0, os.SEEK_END)

    def read(self) -> Iterator[str]:
        """Those that came since the last call."""
        while True:
            try:
                record = os.read(self._file, _CHUNK)
            except BlockingIOError:
                return
            except OSError:  # EPIPE: some were overwritten before we came
                continue
            yield from record.decode(errors="replace").partition(";")[2].splitlines()


@dataclass
class Child:
    """A process of a program, or an act."""

    number: int
    pid: int
    pipe: int
    held: bytes = b""
    is_killed: bool = False


@dataclass
class Agent:
    """The loop."""

    driver: str
    exercise: str
    bdf: str = field(default_factory=find_function)
    children: list[Child] = field(default_factory=list)

    def run(self) -> None:
        """Until standard input ends."""
        self.log = KernelLog()
        self.bound = bound_driver(self.bdf)
        self._say({"ready": True, "bdf": self.bdf, "driver": self.bound})
        held = b""
        while True:
            pipes = {child.pipe: child for child in self.children}
            readable, _, _ = select.select([0, *pipes], [], [])
            for descriptor in readable:
                if descriptor:
                    self._hear(pipes[descriptor])
            if 0 in readable:
                data = os.read(0, _CHUNK)
                if not data:
                    return
                *lines, held = (held + data).split(b"\n")
                for line in lines:
                    self._do(json.loads(line))

    def _say(self, record: Mapping[str, Any]) -> None:
        print(json.dumps(record), flush=True)

    def _do(self, request: dict[str, Any]) -> None:
        match request:
            case {"start": number, "program": record}:
                program = Program(Op(record.pop("op")), **record)
                if program.op is Op.AES:
                    import ihsm.conformance.provisioning  # noqa: F401  before fork, so that children have it
                for _ in range(program.processes):
                    self._fork(number, program)
            case {"start": number, "act": name}:
                self._fork(number, Act(name))
            case {"kill": number, "signal": signal_number}:
                for child in self.children:
                    if child.number == number:
                        child.is_killed = True
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(child.pid, signal_number)
            case {"begins": limit}:
                with contextlib.suppress(OSError):  # a kernel without the check
                    _HUNG.write_text(str(limit))
            case {"look": _}:
                driver = bound_driver(self.bdf)
                self.bound = driver or self.bound
                self._say({"log": list(self.log.read()), "resources": resources(self.driver), "driver": driver})

    def _fork(self, number: int, what: Program | Act) -> None:
        ours, theirs = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(ours)
            try:
                for result in self._act(what) if isinstance(what, Act) else self._calls(what):
                    os.write(theirs, (json.dumps(result.to_json()) + "\n").encode())
            finally:
                os._exit(0)
        os.close(theirs)
        self.children.append(Child(number, pid, ours))

    def _hear(self, child: Child) -> None:
        data = os.read(child.pipe, _CHUNK)
        *lines, child.held = (child.held + data).split(b"\n")
        for line in lines:
            self._say({"ended": child.number, "result": json.loads(line)})
        if data:
            return
        os.close(child.pipe)
        self.children.remove(child)
        _, status = os.waitpid(child.pid, 0)
        if os.WIFSIGNALED(status):
            name = f"signal {os.WTERMSIG(status)}"
            end = CallEnd.KILLED if child.is_killed else CallEnd.CRASHED
            self._say({"ended": child.number, "result": CallResult("process", end, name).to_json()})
        if not any(other.number == child.number for other in self.children):
            self._say({"over": child.number})

    # In children.

    def _calls(self, program: Program) -> Iterator[CallResult]:
        if self.exercise:
            yield self._exercised(program)
            return
        found = _awaited_nodes()
        if not found:
            yield CallResult("open", CallEnd.FAILED, "the driver has no node")
            return
        try:
            user = User(SYSTEM, found[0], program.op)
        except OSError as error:
            yield failed("open", error.errno or 0)
            return
        if program.threads == 1:
            yield from (user.call() for _ in range(program.count))
        else:
            yield from _in_threads(user, program)
        user.close()

    def _exercised(self, program: Program) -> CallResult:
        """The driver's own program: it is told how much there is to do, and its exit status says how it went."""
        words = [self.exercise, str(program.op), str(program.count), str(program.threads)]
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, errors="replace",
            env=os.environ | {"IHSM_FUNCTION": self.bdf},
        )  # fmt: skip
        if done.returncode == 0:
            return CallResult(program.op, CallEnd.SUCCEEDED)
        if done.returncode < 0:
            return CallResult(program.op, CallEnd.CRASHED, f"signal {-done.returncode}")
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [""]
        return CallResult(program.op, CallEnd.FAILED, f"exit status {done.returncode}: {said[0]}")

    def _act(self, act: Act) -> Iterator[CallResult]:
        device, driver = _PCI / "devices" / self.bdf, _PCI / "drivers" / (self.bound or self.driver)
        files = {
            Act.BIND: (driver / "bind", self.bdf),
            Act.UNBIND: (driver / "unbind", self.bdf),
            Act.RESET: (device / "reset", "1"),
            Act.REMOVE: (device / "remove", "1"),
            Act.RETURN: (_PCI / "rescan", "1"),
        }
        if act is Act.SHUTDOWN:
            ctypes.CDLL(None, use_errno=True).reboot(_POWER_OFF)
            yield failed(act, ctypes.get_errno())
            return
        path, text = files[act]
        try:
            path.write_text(text)
        except OSError as error:
            yield failed(act, error.errno or 0)
        else:
            is_lost = act in (Act.BIND, Act.RETURN) and not bound_driver(self.bdf)
            yield CallResult(act, CallEnd.FAILED, "not bound") if is_lost else CallResult(act, CallEnd.SUCCEEDED)


def _awaited_nodes() -> list[str]:
    end_s = time.monotonic() + _NODE_S
    while not (found := nodes()) and time.monotonic() < end_s:
        time.sleep(_NODE_LOOK_S)
    return found


def _in_threads(user: User, program: Program) -> Iterator[CallResult]:
    results: list[CallResult] = []
    lock = threading.Lock()

    def work() -> None:
        for _ in range(program.count):
            result = user.call()
            with lock:
                results.append(result)

    threads = [threading.Thread(target=work) for _ in range(program.threads)]
    for thread in threads:
        thread.start()
    told = 0
    while any(thread.is_alive() for thread in threads) or told < len(results):
        threads[0].join(_NODE_LOOK_S) if threads[0].is_alive() else time.sleep(_NODE_LOOK_S)
        while told < len(results):
            yield results[told]
            told += 1


if __name__ == "__main__":
    Agent(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "").run()
