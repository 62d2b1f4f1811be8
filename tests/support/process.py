# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm serve` as a process of its own, and what the system says about it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ihsm.bus import VfioUserFunction
from ihsm_abi.control import SUFFIX, ControlAnswer, ControlRequest
from support.waiting import HANG_S

READY: Final = "ready:"
SERVE: Final = (sys.executable, "-c", "from ihsm.cli import main; main()", "serve")


def interruptible() -> None:
    """For a process to be interrupted: tests inherit that a shell's background jobs ignore SIGINT, nohup's SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def blocks_on(pid: int, file: str) -> bool:
    """Whether a process sleeps in a system call on a descriptor of a file whose name in /proc begins with `file`.

    Only then does a signal interrupt the call: just before it, Python notes the signal and sleeps nevertheless.
    """
    try:
        number, *arguments = Path(f"/proc/{pid}/syscall").read_text().split()
        return number != "running" and os.readlink(f"/proc/{pid}/fd/{int(arguments[0], 16)}").startswith(file)
    except OSError:  # its first argument is no descriptor
        return False


def _state(pid: int) -> str:
    """The letter of proc_pid_stat(5); that of a zombie if there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the latter if it goes while its file is open
        return "Z"


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    return _state(pid) != "Z"


def stands_still(pid: int) -> bool:
    """Whether the system has stopped a process."""
    return _state(pid) == "T"


def sleeps(pid: int) -> bool:
    """Whether a process, or a thread by its number, waits for something."""
    return _state(pid) == "S"


@dataclass
class ServeProcess:
    """A running `ihsm serve`; `paths` are its sockets."""

    process: subprocess.Popen[str]
    paths: list[Path]
    errors: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def open_files(self) -> int:
        """By its own account: /proc hides them, because the process is not dumpable."""
        return int(self.status()["open_files"])

    def status_field(self, name: str) -> int:
        """A number of /proc/PID/status: Threads, or a size in KiB."""
        return int(lines_of(self.pid)[name].split()[0])

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def control(self, command: str, index: int = 0, **arguments: Any) -> ControlAnswer:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(self.paths[index]) + SUFFIX)
            client.sendall(ControlRequest(command, arguments).encode())
            with client.makefile("rb") as lines:
                return ControlAnswer.decode(lines.readline())

    def status(self, index: int = 0) -> dict[str, Any]:
        answer = self.control("status", index)
        assert answer.result is not None, answer
        return answer.result

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = HANG_S) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


def settled(server: ServeProcess) -> tuple[int, int, int]:
    """Open files, threads and resident KiB with one client that has done nothing yet.

    There is one client at a time: when it is answered, everything of the one before it is gone.
    """
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S):
        assert server.status()["counters"]["dma_regions"] == 0, "regions of a dead client are still mapped"
        return server.open_files(), server.status_field("Threads"), server.status_field("VmRSS")


def lines_of(pid: int) -> dict[str, str]:
    """/proc/PID/status, by name."""
    lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, value in lines}


@contextlib.contextmanager
def serve(
    *options: str,
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = SERVE,
    descriptors: Sequence[int] = (),
) -> Iterator[ServeProcess]:
    """Run `ihsm serve`, or `program` as if it were that, with these options; ended at the end if it still runs.

    `descriptors` are passed on to it.
    """
    process = subprocess.Popen(
        [*program, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        pass_fds=descriptors,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors: list[str] = []
    reader = threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line.startswith(READY), f"no ready line but {line!r}; {''.join(errors)}"
        paths = [Path(uri.removeprefix("vfio-user:")) for uri in line.removeprefix(READY).split()]
        yield ServeProcess(process, paths, errors)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()
        process.stderr.close()


def run_serve(*options: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run an `ihsm serve` that is expected to refuse to start."""
    return subprocess.run(
        [*SERVE, *options], capture_output=True, text=True, env=environment, timeout=HANG_S, check=False
    )


def json_lines(errors: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in errors]
