# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Socket files: one process gets a path, removes the dead only, and at its end what is its own."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.control import SUFFIX
from ihsm_abi.sockets import is_listening
from ihsm_device import socket_paths
from ihsm_device.errors import SocketPathTaken, SocketPathTooLong, SocketPathUnusable
from ihsm_device.socket_paths import LOCK_SUFFIX, claimed, default_paths, listen
from support.process import SERVE, run_serve, serve
from support.waiting import HANG_S

MAX_PATH: Final = 107
RIVALS: Final = 8
RIVAL = """
import sys
from pathlib import Path
from ihsm_device.errors import DeviceError
from ihsm_device.socket_paths import listen
print("here", flush=True)
sys.stdin.readline()
try:
    kept = listen(Path(sys.argv[1]))
    print("won", flush=True)
except DeviceError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def try_claim(path: Path) -> None:
    with claimed(path):
        pass


def test_bad_paths_are_refused(socket_folder: Path) -> None:
    try_claim(socket_folder / ("x" * (MAX_PATH - len(str(socket_folder)) - 1)))
    with pytest.raises(SocketPathTooLong, match="107"):
        try_claim(socket_folder / ("x" * (MAX_PATH - len(str(socket_folder)))))
    with pytest.raises(SocketPathUnusable, match="no such folder"):
        try_claim(socket_folder / "none" / "a.sock")
    (socket_folder / "file").touch()
    with pytest.raises(SocketPathTaken, match="no socket"):
        try_claim(socket_folder / "file")
    with pytest.raises(SocketPathUnusable, match="Not a directory"):
        try_claim(socket_folder / "file" / "a.sock")
    assert [entry.name for entry in socket_folder.iterdir()] == ["file"]


def test_listen_replaces_only_the_dead(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    listener, _ = listen(path)
    with listener:
        assert is_listening(path)
        with pytest.raises(SocketPathTaken, match="listens"):
            listen(path)
    assert path.exists()
    assert not is_listening(path)
    listener, file = listen(path)
    with listener:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    file.remove()
    assert list(socket_folder.iterdir()) == []


def test_only_the_own_file_is_removed(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    first, old = listen(path)
    path.unlink()
    second, new = listen(path)
    old.remove()
    assert is_listening(path)
    new.remove()
    new.remove()
    assert not path.exists()
    first.close()
    second.close()


def test_what_a_failed_bind_left_is_removed(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"

    def bind_and_fail(error: OSError) -> None:
        with socket.socket(socket.AF_UNIX) as bound, claimed(path):
            bound.bind(os.fspath(path))
            raise error

    with pytest.raises(SocketPathUnusable, match="No space"):
        bind_and_fail(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="Too many"):  # no fault of the path
        bind_and_fail(OSError(errno.EMFILE, "Too many open files"))
    assert list(socket_folder.iterdir()) == []


def test_a_lock_that_nobody_lets_go_is_told(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_paths, "LOCK_TIMEOUT_S", 0.0)
    path = socket_folder / "a.sock"
    with claimed(path), pytest.raises(SocketPathTaken, match="about to take it"):
        try_claim(path)


def test_a_lock_file_of_a_killed_process_is_no_lock(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    path.with_name(path.name + LOCK_SUFFIX).touch()
    try_claim(path)
    assert list(socket_folder.iterdir()) == []


@contextlib.contextmanager
def rivals(path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that all have come to where they want the path."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RIVAL, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(RIVALS)
        ]
        for rival in started:
            assert rival.stdout is not None
            assert rival.stdout.readline() == "here\n"
        yield started


def test_of_many_who_want_a_left_over_socket_one_gets_it(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    listener, _ = listen(path)
    listener.close()
    with rivals(path) as started:
        for rival in started:
            assert rival.stdin is not None
            rival.stdin.write("\n")
            rival.stdin.flush()
        said = [rival.stdout.readline() for rival in started if rival.stdout is not None]
        assert is_listening(path)
    assert sum(line == "won\n" for line in said) == 1, said
    assert sum("another process listens there" in line for line in said) == RIVALS - 1, said


def test_a_socket_bound_while_another_looks_is_not_removed(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have seen the dead socket before either removes it: the lock is what keeps the second from it."""
    path = socket_folder / "a.sock"
    listener, _ = listen(path)
    listener.close()
    looked, go = threading.Event(), threading.Event()

    def slow_look(of: Path) -> bool:
        dead = not is_listening(of)
        if threading.current_thread() is slow and not looked.is_set():
            looked.set()
            assert go.wait(HANG_S)
        return not dead

    monkeypatch.setattr(socket_paths, "is_listening", slow_look)
    monkeypatch.setattr(socket_paths, "LOCK_TIMEOUT_S", 0.0)
    won: list[socket.socket] = []
    slow = threading.Thread(target=lambda: won.append(listen(path)[0]))
    slow.start()
    assert looked.wait(HANG_S)
    with pytest.raises(SocketPathTaken):
        listen(path)
    go.set()
    slow.join(HANG_S)
    assert len(won) == 1
    assert is_listening(path)
    won[0].close()


def test_a_server_in_another_network_namespace_is_seen(socket_folder: Path) -> None:
    """Sockets with a path are reached from everywhere; lists of them are not."""
    path = socket_folder / "a.sock"
    command = ["unshare", "--net", "--map-root-user", *SERVE, "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        if not other.stdout.readline():
            pytest.skip("no network namespace can be made here")
        assert is_listening(path)
        refused = run_serve("--socket", str(path))
        assert "another process listens there" in refused.stderr
        other.send_signal(signal.SIGTERM)
    assert other.returncode == 0
    assert list(socket_folder.iterdir()) == []


def test_default_paths_are_chosen_by_one_at_a_time(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(socket_folder))
    monkeypatch.setattr(socket_paths, "LOCK_TIMEOUT_S", 0.0)
    with default_paths(2) as paths:
        assert [path.name for path in paths] == ["0.sock", "1.sock"]
        with pytest.raises(SocketPathTaken), default_paths(1):
            pass
        listener, _ = listen(paths[0])
    with listener, default_paths(1) as others:
        assert [path.name for path in others] == ["1.sock"]


def test_servers_started_at_once_without_a_path_all_start(socket_folder: Path) -> None:
    environment = os.environ | {"XDG_RUNTIME_DIR": os.fspath(socket_folder)}
    started = [
        subprocess.Popen([*SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    said = [process.stdout.readline() for process in started if process.stdout is not None]
    for process in started:
        process.terminate()
        _, errors = process.communicate(timeout=HANG_S)
        assert errors == "", "looking for a free path disturbs no other server"
    assert len(set(said)) == len(started), said
    assert all(line.startswith("ready:") for line in said), said


def test_a_server_that_ends_leaves_the_sockets_of_its_successor(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    with serve("--socket", str(path)) as old:
        for name in (path, path.with_name(path.name + SUFFIX)):
            name.unlink()
        with serve("--socket", str(path)) as new:
            assert old.stop() == 0
            with VfioUserFunction(path):
                assert new.status()["pid"] == new.pid
            assert new.stop() == 0
    assert list(socket_folder.iterdir()) == []
