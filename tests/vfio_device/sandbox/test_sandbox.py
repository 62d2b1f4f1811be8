# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a device process gives up, as the system shows it from outside, and as code within it finds it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.driver import Controller
from ihsm_device.sandbox import landlock, system_calls
from support.process import SERVE, ServeProcess, serve
from support.waiting import HANG_S

pytestmark = pytest.mark.skipif(os.uname().machine != system_calls.MACHINE, reason="system calls of another machine")
HAS_LANDLOCK: Final = landlock.version() > 0
INTRUDER: Final = (sys.executable, str(Path(__file__).parents[2] / "programs" / "intruder.py"))
REFUSED: Final = frozenset((errno.EPERM, errno.EACCES, errno.ENOSYS))
ONLY_WITH_LANDLOCK: Final = frozenset(
    (
        "read a file", "write a file", "make a file", "list a folder", "remove a file", "read the passwords",
        "read beside the sockets", "write its own memory", "read another's memory",
    )
)  # fmt: skip
"""Attempts that a filter of system calls does not see."""
WORKS_WITHOUT: Final = frozenset(
    (
        "read a file", "write a file", "make a file", "list a folder", "remove a file", "read the passwords",
        "read beside the sockets", "connect", "execute", "fork", "clone3", "trace", "signal another process",
        "executable memory", "memory made executable", "code in a file in memory",
    )
)  # fmt: skip
"""Attempts that nothing stops without a sandbox, whoever runs the tests."""

FEW_BYTES: Final = 1 << 16


def use(path: Path) -> None:
    """A command, all the way."""
    with Controller(VfioUserFunction(path, timeout_s=HANG_S)) as controller:
        Partition(controller).api_revisions()


def threads(server: ServeProcess) -> dict[str, dict[str, str]]:
    """Lines of /proc/PID/task/TID/status by name, by the thread's name."""
    found = {}
    for task in Path(f"/proc/{server.pid}/task").iterdir():
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        found[f"{lines['Name'].strip()} {task.name}"] = {name: value.strip() for name, value in lines.items()}
    return found


@pytest.mark.parametrize("doorbell", ["trap", "page"])
def test_every_thread_has_given_all_up(socket_folder: Path, doorbell: str) -> None:
    with serve("--socket", str(socket_folder / "s"), "--doorbell", doorbell, "--count", "2") as server:
        use(server.paths[0])
        for name, lines in threads(server).items():
            given = {key: int(lines[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
            assert not any(given[key] for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")), name
            assert os.geteuid() != 0 or not given["CapBnd"], name
            assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2"), name
        (cores,) = (line for line in Path(f"/proc/{server.pid}/limits").read_text().splitlines() if "core file" in line)
        assert cores.split()[4:6] == ["0", "0"]
        shown = server.status()["sandbox"]
        assert (shown["on"], shown["system_calls"], shown["capabilities"]) == (True, "filtered", "0x0")
        assert (shown["landlock"] or 0) == landlock.version()
        assert server.stop() == 0
    assert sorted(os.listdir(socket_folder)) == [], "a confined process removes its sockets"


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Somebody at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        yield


def found_by_an_intruder(folder: Path, sockets: Path, *options: str) -> Mapping[str, int]:
    """Error numbers of what code brought in tried, by attempt; the device works on, then and after."""
    (folder / "other").write_text("nothing of the device's")
    (sockets / "beside").write_text("nothing of the device's either")
    ours, theirs = os.pipe()
    environment = os.environ | {"REPORT": str(theirs)}
    with listening(folder / "listener"), open(ours) as report:
        program = (*INTRUDER, str(folder), "serve")
        with serve(
            "--socket", str(sockets / "s"), *options, environment=environment, program=program, descriptors=[theirs]
        ) as server:
            os.close(theirs)
            use(server.paths[0])
            lines = report.read().splitlines()
            use(server.paths[0])
            assert server.stop() == 0
    return {name: int(number) for name, _, number in (line.partition(": ") for line in lines)}


def test_code_in_a_worker_gets_nowhere(tmp_path: Path, socket_folder: Path) -> None:
    found = found_by_an_intruder(tmp_path, socket_folder)
    assert len(found) > len(WORKS_WITHOUT)
    allowed = {name: number for name, number in found.items() if number not in REFUSED}
    assert allowed.keys() <= (set() if HAS_LANDLOCK else ONLY_WITH_LANDLOCK), allowed


def test_without_a_sandbox_it_gets_far(tmp_path: Path, socket_folder: Path) -> None:
    """Those attempts are real."""
    found = found_by_an_intruder(tmp_path, socket_folder, "--sandbox", "off")
    refused = {name for name in WORKS_WITHOUT if found[name] in REFUSED}
    assert not refused


def test_locked_key_memory_is_shown_as_it_is(socket_folder: Path) -> None:
    """The limit stands for a process without the capability to lock more."""
    without = ("setpriv", "--bounding-set=-ipc_lock,-sys_resource") if os.geteuid() == 0 else ()
    program = (*without, "prlimit", f"--memlock={FEW_BYTES}:{FEW_BYTES}", *SERVE)
    with serve("--socket", str(socket_folder / "s"), program=program) as server:
        memory = server.status()["module"]["key_memory"]
        assert memory["locked_bytes"] < memory["reserved_bytes"]
        use(server.paths[0])
