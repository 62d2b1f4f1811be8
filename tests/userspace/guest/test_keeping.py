# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that is kept: its process without a guest, requests that make no sense, folders that change."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest import GuestConfig, bench, keeping
from ihsm.guest.kernel import find_kernel
from ihsm.guest.session import Session
from ihsm.guest.toolchain import Qemu
from support.commands import run, run_process
from support.waiting import HANG_S, ended


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def keeper(runtime: Path) -> Iterator[Path]:
    """The process's loop, in a thread of ours: its guests are programs that end at once."""
    path = keeping.socket_path()
    path.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    qemu = runtime / "qemu"
    qemu.write_text("#!/bin/sh\necho no machine >&2\nexit 3\n")
    qemu.chmod(0o755)
    config = GuestConfig(qemu=Qemu(qemu, (11, 1)), kernel=find_kernel())
    session = Session(config=config, shell="true", devices=0)
    thread = threading.Thread(target=keeping._Keeper(session, listener).serve)
    with listener:
        thread.start()
        yield path
        with contextlib.suppress(keeping.NoKeptGuestError):
            keeping.end()
        ended(thread)


def ask_raw(path: Path, data: bytes) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(HANG_S)
        connection.connect(os.fspath(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while more := connection.recv(4096):
            answer += more
    return [json.loads(line) for line in answer.splitlines()]


def test_what_is_no_request_is_refused_and_the_next_is_heard(keeper: Path) -> None:
    assert ask_raw(keeper, b"") == []
    assert ask_raw(keeper, b"nonsense\n") == []
    assert ask_raw(keeper, b"[1]\n") == []
    (answer,) = ask_raw(keeper, b'{"run": {}}\n')  # without descriptors
    assert answer["exit_code"] == 125


def test_a_run_that_fails_is_told_and_the_next_tries_again(keeper: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(keeping.GuestError, match="QEMU ended with status 3"):
            keeping.again(None, keeping.Asker(said.append, said.append), (1, 2))
    assert sum("booting Linux" in line for line in said) == 2


def test_commands_without_a_kept_guest(runtime: Path) -> None:
    for word in ("--again", "--end"):
        done = run_process("guest", word)
        assert (done.returncode, done.stdout) == (125, b"")
        assert done.stderr == b"Error: no guest is kept: start one with --keep\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--keep"],
        ["--watch", "."],
        ["--watch", ".", "--keep", "--exec", "true"],
        ["--again", "--build", "."],
        ["--end", "--exec", "true"],
        ["--keep", "--gdb", "1234", "--exec", "true"],
    ],
)
def test_options_that_do_not_go_together(words: list[str]) -> None:
    result = run("guest", *words)
    assert result.exit_code == 2, result.output


def test_a_change_is_what_an_editor_keeps_and_not_what_it_keeps_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "module"
    (folder / ".git").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "sub" / "a.c").write_text("1")
    before = bench._stamps(folder)
    for name in (".git/index", "sub/.a.c.swp", "sub/a.c~", "sub/#a.c#"):
        (folder / name).write_text("x")
    assert bench._stamps(folder) == before
    (folder / "sub" / "a.c").write_text("12")
    changed = bench._stamps(folder)
    assert changed != before
    assert bench._changed(folder, before) == changed
    (folder / "sub" / "a.c").unlink()
    assert bench._stamps(folder) == {}
    assert bench._stamps(folder / "gone") == {}


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=50), max_size=3))
def test_lines_arrive_whole_with_their_descriptors(message: dict[str, str]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keeping._Line(ours).send(message, (0, 1))
        received, descriptors = keeping._Line(theirs).receive()
    for descriptor in descriptors:
        os.close(descriptor)
    assert received == message
    assert len(descriptors) == 2
