# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Children and folders that last as long as their process, and end with it however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ihsm import kept as kept_module
from ihsm.kept import Kept
from support.process import alive, interruptible
from support.waiting import HANG_S, until

SLEEP: Final = ("sleep", "1000")
USER: Final = """
import ctypes, os, signal, sys, time
from ihsm.kept import Kept
kept = Kept("ihsm-test-")
pid = kept.start(["sleep", "1000"])
if "fork" in sys.argv and os.fork() == 0 or "unseen" in sys.argv and ctypes.CDLL(None).fork() == 0:
    signal.pause()
print(pid, kept._keeper.pid, kept.folder, flush=True)
"""


@pytest.fixture
def kept() -> Iterator[Kept]:
    with Kept("ihsm-test-") as made:
        yield made


def test_child_and_folder_end_at_close(kept: Kept) -> None:
    pid = kept.start(SLEEP)
    (kept.folder / "file").write_text("")
    assert alive(pid)
    assert kept.wait(0) is None
    kept.close()
    assert not alive(pid)
    assert not kept.folder.exists()
    assert kept.wait() is not None
    kept.close()


@pytest.mark.parametrize(
    "unusable", ["/proc", "/does/not/exist", "/tmp/" + "t" * 90], ids=["refuses", "absent", "long"]
)
def test_the_folder_of_a_socket_is_made_where_that_can_be(unusable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", unusable)
    with Kept("ihsm-test-", socket_name="0.sock") as kept:
        assert not kept.folder.is_relative_to(unusable)
        assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.fspath(kept.folder / "0.sock"))


def test_the_first_reason_is_told_when_no_folder_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "private_parents", lambda *_: ["/does/not/exist", "/proc/1/fdinfo"])
    with pytest.raises(OSError, match="no temporary folder: No such file or directory"):
        Kept("ihsm-test-", socket_name="0.sock")
    monkeypatch.undo()
    with pytest.raises(OSError, match="File name too long"):
        Kept("ihsm-test-", socket_name="x" * 107)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT, None])
@pytest.mark.parametrize("fork", ["alone", "fork", "unseen"])
def test_both_end_with_their_process(tmp_path: Path, end: signal.Signals | None, fork: str) -> None:
    """Killed by a signal, or at its end without `close`; a fork that lives on, seen by Python or not, keeps neither."""
    # in short sleeps: an exception that SIGINT makes is raised between them
    code = USER + ("while True: time.sleep(0.01)" if end else "os._exit(0)")
    user = subprocess.Popen(
        [sys.executable, "-c", code, fork],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
        env=os.environ | {"TMPDIR": os.fspath(tmp_path)},
    )
    assert user.stdout is not None
    assert user.stdin is not None
    try:
        pid, keeper, folder = user.stdout.readline().split()
        if end:
            user.send_signal(end)
        user.wait(HANG_S)
        until(lambda: not alive(int(pid)), "the end of the child")
        until(lambda: not alive(int(keeper)), "the end of the keeper")
        assert not Path(folder).exists()
        assert list(tmp_path.iterdir()) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(user.pid, signal.SIGKILL)  # the fork
        user.stdin.close()
        user.stdout.close()


def test_they_outlive_the_thread_that_made_them() -> None:
    made: list[tuple[Kept, int]] = []

    def make() -> None:
        kept = Kept("ihsm-test-")
        made.append((kept, kept.start(SLEEP)))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join(HANG_S)
    kept, pid = made[0]
    with kept:
        until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists(), "the end of the thread")
        assert kept.wait(0) is None
        assert alive(pid)
        assert kept.folder.is_dir()


def test_a_killed_keeper_takes_the_child_along(kept: Kept) -> None:
    pid = kept.start(SLEEP)
    os.kill(kept._keeper.pid, signal.SIGKILL)
    assert kept.wait(HANG_S) == -signal.SIGKILL
    until(lambda: not alive(pid), "the end of the child")
    kept.close()
    assert not kept.folder.exists()


def test_a_fork_that_closes_ends_nothing(kept: Kept) -> None:
    pid = kept.start(SLEEP)
    if (fork := os.fork()) == 0:
        kept.close()
        os._exit(0)
    os.waitpid(fork, 0)
    assert kept.wait(0) is None
    assert alive(pid)


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", -9), ("true", 0)])
def test_the_status_is_that_of_the_child(kept: Kept, script: str, status: int) -> None:
    kept.start(["sh", "-c", script])
    assert kept.wait(HANG_S) == status
    assert kept.wait() == status
    kept.send_signal(signal.SIGTERM)


def test_signals_reach_the_child(kept: Kept) -> None:
    kept.start(["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"], logged=(1,), log="out")
    until(lambda: (kept.folder / "out").exists() and (kept.folder / "out").read_text(), "a child that is ready")
    kept.send_signal(signal.SIGTERM)
    assert kept.wait(HANG_S) == 5


def test_the_child_has_the_descriptors_and_the_keeper_keeps_none() -> None:
    read_end, write_end = os.pipe()
    with Kept("ihsm-test-", [write_end]) as kept:
        kept.start(["sh", "-c", f"echo hello >/dev/fd/{write_end}"])
        os.close(write_end)
        assert kept.wait(HANG_S) == 0
        with os.fdopen(read_end) as file:
            assert file.read() == "hello\n", "an end of file too: nobody else has the other end"


def test_a_program_that_cannot_be_run_says_so(kept: Kept) -> None:
    kept.start(["/does/not/exist"], logged=(2,))
    assert kept.wait(HANG_S) == 126
    assert (kept.folder / "log").read_text() == "/does/not/exist: No such file or directory\n"


def test_names_are_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(odd)
    monkeypatch.setenv("TMPDIR", odd)
    monkeypatch.setattr("tempfile.tempdir", None)
    with Kept("ihsm-test-") as kept:
        assert os.fspath(kept.folder.parent) == odd
        kept.start(["touch", kept.folder / os.fsdecode(b"\xff\xfe")])
        assert kept.wait(HANG_S) == 0
        assert os.listdir(os.fsencode(kept.folder)) == [b"\xff\xfe"]


def test_without_a_place_for_the_folder_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.keeper.__file__", "/does/not/exist.py")
    with pytest.raises(OSError, match="did not start"):
        Kept("ihsm-test-")


def test_signals_of_the_child_are_at_their_defaults(kept: Kept) -> None:
    """The keeper ignores those of a terminal; programs inherit what is ignored."""
    kept.start(["grep", "SigIgn", "/proc/self/status"], logged=(1,))
    assert kept.wait(HANG_S) == 0
    assert (
        int((kept.folder / "log").read_text().split()[1], 16) & (1 << signal.SIGTERM - 1 | 1 << signal.SIGINT - 1) == 0
    )


def test_nothing_of_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "socket", "shutil", "ctypes"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with Kept("ihsm-test-") as kept:
        kept.start(["true"])
        assert kept.wait(HANG_S) == 0
