# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whom a server becomes, and who may use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm_abi.control import SUFFIX, ControlAnswer, ControlErrorCode
from support.hosts import chain
from support.process import SERVE, ServeProcess, lines_of, run_serve, serve
from support.stores import NOBODY
from support.waiting import HANG_S

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
STRANGER: Final = 54321
CONNECT: Final = """
import os, socket, sys
if int(sys.argv[2]) >= 0:
    os.setgroups([])
    os.setresuid(*[int(sys.argv[2])] * 3)
with socket.socket(socket.AF_UNIX) as client:
    client.connect(sys.argv[1])
    client.sendall(bytes.fromhex(sys.argv[3]))
    answer = client.recv(4096)
    while answer and (more := client.recv(1) if sys.argv[4] == "all" else b""):
        answer += more
    print(len(answer))
"""
GREETING: Final = (bytes.fromhex("0000010017000000000000000000000000000100") + b"{}\0").hex()
"""VERSION of vfio-user, 0.1 without capabilities."""
ERROR_BYTES: Final = 16
"""A header alone, which is how a greeting is refused."""
STATUS: Final = b'{"command": "status"}\n'.hex()


def user_of(server: ServeProcess) -> int:
    (user,) = set(lines_of(server.pid)["Uid"].split())
    return int(user)


@needs_root
def test_root_becomes_a_user_of_its_own(open_folder: Path) -> None:
    """One that the state belongs to from then on, so that the next start is the same user."""
    state, path = open_folder / "state", open_folder / "s"
    users, chains = set(), set()
    for _ in range(2):
        with serve("--socket", str(path), "--state", str(state)) as server:
            chains.add(chain(path))
            users.add(user_of(server))
            shown = server.status()["sandbox"]
            assert (shown["user"], shown["weaker"]) == (user_of(server), [])
            owners = {file.stat().st_uid for file in (state, path, *state.iterdir())}
            assert server.stop() == 0
        assert owners == users
        assert not path.exists()
    (user,) = users
    assert user not in (0, NOBODY)
    assert len(chains) == 1


@needs_root
def test_root_becomes_whom_one_names(open_folder: Path) -> None:
    with serve("--socket", str(open_folder / "s"), "--user", str(STRANGER)) as server:
        assert user_of(server) == STRANGER
    refused = run_serve("--socket", str(open_folder / "s"), "--user", "no such user")
    assert (refused.returncode, refused.stderr) == (1, "Error: there is no user 'no such user'\n")


@needs_root
def test_a_user_who_was_named_and_cannot_be_is_an_error(socket_folder: Path) -> None:
    refused = run_serve("--socket", str(socket_folder / "s"), "--user", str(STRANGER))
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: the device cannot become user '{STRANGER}': user {STRANGER} cannot use ")
    assert run_serve("--user", str(STRANGER), "--sandbox", "off").returncode == 2


@needs_root
def test_root_becomes_who_owns_the_folder(open_folder: Path) -> None:
    """With the group that the user has, and not the folder's, which may be root's."""
    os.chmod(open_folder, 0o755)
    os.chown(open_folder, STRANGER, 0)
    with serve("--socket", str(open_folder / "s")) as server:
        assert user_of(server) == STRANGER
        assert set(lines_of(server.pid)["Gid"].split()) == {str(STRANGER)}


@needs_root
def test_root_stays_where_nobody_else_can_work_and_says_why(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "s")) as server:
        assert user_of(server) == 0
        (why,) = server.status()["sandbox"]["weaker"]
        assert why.startswith("the device is user 0, without capabilities: user ")
        assert str(socket_folder) in why


@needs_root
def test_a_state_that_nobody_else_can_enter_keeps_it_root(open_folder: Path, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    with serve("--socket", str(open_folder / "s"), "--state", str(tmp_path / "state")) as server:
        assert user_of(server) == 0
        assert (tmp_path / "state").stat().st_uid == 0


def connect(path: Path | str, user: int, sent: str, *, until_end: bool = False) -> subprocess.CompletedProcess[str]:
    """Say something at a socket as some user; how many bytes came back is printed."""
    words = [sys.executable, "-c", CONNECT, os.fspath(path), str(user), sent, "all" if until_end else "some"]
    return subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)


def refused(user: int) -> tuple[str, ...]:
    """What `connect` prints of a user at the control socket who is told that, and hung up on perhaps before it asks."""
    said = ControlAnswer(error_code=ControlErrorCode.NOT_ALLOWED, message=f"user {user} may not use the device")
    return (f"{len(said.encode())}\n", "")


@needs_root
def test_others_are_not_served_even_if_they_come_as_far_as_the_socket(open_folder: Path) -> None:
    path = open_folder / "s"
    control = f"{path}{SUFFIX}"
    with serve("--socket", str(path)) as server:
        for file in (path, control):
            assert "PermissionError" in connect(file, STRANGER, STATUS).stderr
            os.chmod(file, 0o666)
        done = connect(path, STRANGER, GREETING, until_end=True)
        assert done.returncode == 0, "the connection was ended by the device"
        assert connect(control, STRANGER, STATUS).stdout in refused(STRANGER)
        chain(path)  # who started it is served, and the stranger holds nothing up
        server.stop()
    assert sum("refused" in line and str(STRANGER) in line for line in server.errors) >= 2


LOOK: Final = """
import os, sys
from ihsm.bus import VfioUserFunction
from ihsm.cli.last_handler import exit_status
from ihsm.control import ControlClient
import ihsm_abi.control
os.setgroups([])
os.setresuid(*[int(sys.argv[2])] * 3)
for look in (lambda: ControlClient(sys.argv[1]).status(), lambda: VfioUserFunction(sys.argv[1])):
    print(exit_status(look))
"""
"""Everything is imported beforehand: another user may not read the checkout."""


@needs_root
def test_who_is_not_allowed_is_told_so(open_folder: Path) -> None:
    """At the control socket by the device, at the other one, which is just closed, by asking the first."""
    path = open_folder / "s"
    with serve("--socket", str(path), "--allow-uid", str(STRANGER + 1)):
        words = [sys.executable, "-c", LOOK, os.fspath(path), str(STRANGER)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.stdout.split() == ["3", "3"]
    said = f"user {STRANGER} may not use the device"
    assert done.stderr.splitlines() == [f"Error: {path}{SUFFIX}: {said}", f"Error: {path}: {said}"]


@needs_root
def test_who_is_allowed_is_served(open_folder: Path) -> None:
    path = open_folder / "s"
    with serve("--socket", str(path), "--allow-uid", str(STRANGER)) as server:
        for user, count in ((STRANGER, True), (STRANGER + 1, False)):
            done = connect(f"{path}{SUFFIX}", user, STATUS)
            assert (done.stdout not in refused(user)) is count
        assert int(connect(path, STRANGER, GREETING).stdout) > ERROR_BYTES
        chain(path)
        server.stop()


@needs_root
def test_root_may_use_the_device_of_an_ordinary_user(open_folder: Path) -> None:
    """Who can become that user, and trace its processes, is not kept out by being refused."""
    become = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    if subprocess.run([*become, *SERVE, "--help"], capture_output=True, check=False).returncode:
        pytest.skip("another user cannot run the checkout's programs")
    with serve("--socket", str(open_folder / "s"), program=(*become, *SERVE)) as server:
        assert server.status()["sandbox"]["user"] == STRANGER
        chain(open_folder / "s")
        assert server.stop() == 0


def test_an_ordinary_user_in_a_namespace_without_capabilities(open_folder: Path) -> None:
    """As in a container that has no rights; the sandbox is the same there."""
    program = ("unshare", "--user", "--map-user=1000", "setpriv", "--inh-caps=-all", *SERVE)
    if subprocess.run([*program[:3], "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    with serve("--socket", str(open_folder / "s"), program=program) as server:
        shown: dict[str, Any] = server.status()["sandbox"]
        assert (shown["user"], shown["capabilities"], shown["system_calls"]) == (1000, "0x0", "filtered")
        chain(open_folder / "s")
        assert server.stop() == 0
