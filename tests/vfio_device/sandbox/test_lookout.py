# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The process that looks at clients: what it has, what it can still do, whom it looks at, and that its end is told."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.driver import Controller
from ihsm_abi.libc import LIBC, checked
from ihsm_device.sandbox import lookout, system_calls
from ihsm_device.sandbox.lookout import Lookout
from ihsm_device.sandbox.privileges import CAP_SYS_PTRACE, LOOKOUT
from support.process import SERVE, ServeProcess, lines_of, serve
from support.waiting import HANG_S, until

pytestmark = pytest.mark.skipif(os.uname().machine != system_calls.MACHINE, reason="system calls of another machine")
PTRACE_ATTACH: Final = 16
SYS_PTRACE: Final = 101
SYS_PROCESS_VM_READV: Final = 310
CLIENT: Final = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
connection.recv(1)
"""


def stack(maps: bytes) -> bytes:
    """The line of a process's stack, whose address is random."""
    (line,) = (line for line in maps.splitlines() if line.endswith(b"[stack]"))
    return line


def enable(server: ServeProcess) -> None:
    """Have the device look at its client: memory and an enabled controller."""
    with Controller(VfioUserFunction(server.paths[0], timeout_s=HANG_S)):
        pass


def test_it_has_given_up_what_it_does_not_need(open_folder: Path) -> None:
    with serve("--socket", str(open_folder / "s")) as server:
        shown: dict[str, Any] = server.status()["sandbox"]["lookout"]
        lines = lines_of(shown["pid"])
        kept = CAP_SYS_PTRACE if os.geteuid() == 0 else 0
        assert {int(lines[name], 16) for name in ("CapEff", "CapPrm")} == {kept}
        assert not any(int(lines[name], 16) for name in ("CapInh", "CapAmb"))
        assert (lines["NoNewPrivs"], lines["Seccomp"]) == ("1", "2")
        user = LOOKOUT if os.geteuid() == 0 else os.geteuid()
        assert set(lines["Uid"].split()) == {str(user)}
        assert set(lines["Gid"].split()) == {str(LOOKOUT if os.geteuid() == 0 else os.getegid())}
        assert os.geteuid() != 0 or lines["Groups"] == ""
        assert (shown["user"], shown["capabilities"], shown["system_calls"]) == (user, f"{kept:#x}", "filtered")
        assert server.status()["sandbox"]["weaker"] == []


def test_its_end_is_told_by_the_status_and_the_log(open_folder: Path) -> None:
    with serve("--socket", str(open_folder / "s")) as server:
        pid = server.status()["sandbox"]["lookout"]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.status()["sandbox"]["lookout"] is None, "a status without the process")
        (why,) = server.status()["sandbox"]["weaker"]
        assert "the process that looks has ended" in why
        enable(server)
        assert server.stop() == 0
    assert sum("has ended" in line for line in server.errors) == 1


def test_its_end_is_told_when_it_is_missed(open_folder: Path) -> None:
    """Nobody asks for the status: the next client is served, and the log knows."""
    with serve("--socket", str(open_folder / "s")) as server:
        pid = server.status()["sandbox"]["lookout"]["pid"]
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([ended], [], [], HANG_S)[0]
        os.close(ended)
        enable(server)
        until(lambda: any("has ended" in line for line in server.errors), "a line in the log")
        assert server.stop() == 0


def test_one_that_is_stopped_holds_up_nobody(open_folder: Path) -> None:
    """Clients are served, a bit later, and the device ends."""
    with serve("--socket", str(open_folder / "s")) as server:
        pid = server.status()["sandbox"]["lookout"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                enable(server)
            assert server.stop() == 0
        finally:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has no capability to lose")
def test_root_without_the_capability_says_that_it_remains(open_folder: Path) -> None:
    """Else it could look at nobody: as in a container with few capabilities, where clients are root too."""
    program = ("setpriv", "--bounding-set=-sys_ptrace", *SERVE)
    with serve("--socket", str(open_folder / "s"), program=program) as server:
        shown = server.status()["sandbox"]
        assert shown["lookout"]["user"] == 0
        assert any("CAP_SYS_PTRACE" in text for text in shown["weaker"])


@pytest.fixture
def a_lookout() -> Iterator[Lookout]:
    """Of a device with one function."""
    made = Lookout(1)
    yield made
    made.close()


def test_it_shows_the_process_at_the_other_end_and_no_other(a_lookout: Lookout, socket_folder: Path) -> None:
    """Who hands over a connection does not say whose it is."""
    read = a_lookout.reader(0)
    path = os.fspath(socket_folder / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        client = subprocess.Popen([sys.executable, "-c", CLIENT, path])
        with client:
            connection, _ = listener.accept()
            with connection:
                assert stack(read(connection)) == stack(Path(f"/proc/{client.pid}/maps").read_bytes())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        own = Path("/proc/self/maps").read_bytes()
        assert stack(read(ours)) == stack(own), "the process that made both ends"


def test_what_is_no_connection_shows_nothing(a_lookout: Lookout) -> None:
    read = a_lookout.reader(0)
    with socket.socket(socket.AF_INET) as network, pytest.raises(PermissionError):
        read(network)
    a_lookout._connections[0].send(b"\1")  # nothing handed over
    assert lookout._answer_of(a_lookout._connections[0]) == b""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert read(ours)


def attempts(folder: Path) -> dict[str, Callable[[], object]]:
    """What code in it could want."""
    return {
        "write a file": lambda: os.open(folder / "file", os.O_WRONLY),
        "make a file": lambda: os.open(folder / "new", os.O_RDONLY | os.O_CREAT, 0o600),
        "empty a file": lambda: os.open(folder / "file", os.O_RDONLY | os.O_TRUNC),
        "remove a file": lambda: os.unlink(folder / "file"),
        "give a file away": lambda: os.chown(folder / "file", 1, 1),
        "connect": lambda: socket.socket(socket.AF_UNIX),
        "connect to the network": lambda: socket.socket(socket.AF_INET),
        "execute": lambda: os.execv("/bin/true", ["true"]),
        "fork": lambda: os.fork() or os._exit(0),
        "trace": lambda: checked(LIBC.syscall(SYS_PTRACE, PTRACE_ATTACH, os.getppid(), 0, 0)),
        "read another's memory": lambda: checked(LIBC.syscall(SYS_PROCESS_VM_READV, os.getppid(), 0, 0, 0, 0, 0)),
        "signal another process": lambda: os.kill(os.getppid(), 0),
        "become root": lambda: os.setuid(0),
    }


def tried(attempt: Callable[[], object]) -> int:
    """The error number that an attempt ends with, 0 for none."""
    try:
        attempt()
    except OSError as error:
        return error.errno or 0
    return 0


def test_code_in_it_gets_nowhere(open_folder: Path) -> None:
    (open_folder / "file").write_text("root's")
    wanted = attempts(open_folder)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            if (pid := os.fork()) == 0:
                try:
                    lookout._confined()
                    theirs.sendall(json.dumps({name: tried(attempt) for name, attempt in wanted.items()}).encode())
                finally:
                    os._exit(0)
        with ours.makefile() as report:
            found = json.loads(report.read())
    os.waitpid(pid, 0)
    assert found == dict.fromkeys(wanted, errno.EPERM)
    assert (open_folder / "file").read_text() == "root's"
