# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A child process and a temporary folder that last as long as this process, and end with it however it ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from ihsm import forks, keeper
from ihsm.closing import Closing
from ihsm.errors import ForkedError
from ihsm_abi.sockets import private_parents

MODULE_OPTIONS: Final = ("-P", "-m")
"""For the interpreter: run a module, and leave the current folder, whose files are anybody's, off `sys.path`."""
_CHUNK: Final = 1 << 16
_START_TIMEOUT_S: Final = 60.0
"""How long a keeper may take to begin, on a machine that is busy with other things."""
_END_TIMEOUT_S: Final = 10.0


class Kept(Closing):
    """A temporary folder, and a child when one is started, kept by a process of their own (`ihsm.keeper`).

    Both live until `close` or the end of this *process*, whichever of its threads made them, and even if it is killed.
    """

    def __init__(
        self, prefix: str, descriptors: Sequence[int] = (), *, socket_name: str | None = None, terminal: bool = False
    ) -> None:
        """Make the folder.

        Args:
            prefix: how the folder's name begins.
            descriptors: what the child will inherit, under the same numbers.
            socket_name: the longest name of a socket that has to fit into the folder
                (`ihsm_abi.sockets.private_parents`).
            terminal: the child has our streams and gets the signals of the terminal, such as Ctrl-C; otherwise it
                reads and writes nothing, but for what `start` logs.

        Raises:
            OSError: the keeper cannot be started, or cannot make the folder.
        """
        self._lock = threading.Lock()
        self._received = b""
        self._status: int | None = None
        self._started = False
        self._forked = False
        if socket_name is None:
            parents = [tempfile.gettempdir()]
        elif not (parents := private_parents(prefix, socket_name)):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), socket_name)
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                owner = os.pidfd_open(os.getpid())
                try:
                    self._keeper = self._start_keeper(owner, theirs, prefix, parents, descriptors, terminal)
                finally:
                    os.close(owner)
            self.folder = Path(os.fsdecode(self._expect("folder").encode("latin-1")))
        except BaseException:
            self._channel.close()
            raise
        forks.watch(self)

    def forked(self) -> None:
        """In a fork of this process: hang up, without the keeper noticing."""
        self._lock = threading.Lock()
        self._forked = True
        self._channel.close()
        self._keeper.returncode = 0  # no child of ours, and nothing to wait for

    def _require_ours(self, operation: str) -> None:
        if self._forked:
            raise ForkedError(f"{self.folder}: {operation}")

    @staticmethod
    def _start_keeper(
        owner: int,
        channel: socket.socket,
        prefix: str,
        parents: Sequence[str],
        descriptors: Sequence[int],
        terminal: bool,
    ) -> subprocess.Popen[bytes]:
        # Isolated and without site packages: the standard library alone, whatever the environment and the folder say.
        command = [sys.executable, "-I", "-S", keeper.__file__, str(owner), str(channel.fileno())]
        command += [",".join(map(str, descriptors)), prefix, *parents]
        stream = None if terminal else subprocess.DEVNULL
        return subprocess.Popen(
            command,
            stdin=stream,
            stdout=stream,
            stderr=stream,
            env=_child_environment(),
            pass_fds=(owner, channel.fileno(), *descriptors),
            start_new_session=not terminal,
        )

    def start(
        self, arguments: Sequence[str | os.PathLike[str]], *, logged: Sequence[int] = (), log: str = "log"
    ) -> int:
        """Start the child, once; its process id. Those of its streams in `logged` (1, 2) go to `folder` / `log`.

        Its environment is ours, but for empty entries of PYTHONPATH, which mean the current folder. A program that
        cannot be run is a child that ends with status 126.

        Raises:
            OSError: there can be no further process.
            ForkedError: folder and child are those of our parent, here and in the methods below.
        """
        self._require_ours("start of a child")
        words = [os.fsencode(word).decode("latin-1") for word in arguments]
        self._send({"arguments": words, "log": log, "logged": list(logged)})
        pid = int(self._expect("pid"))
        self._started = True
        return pid

    def send_signal(self, number: int) -> None:
        """Send the child a signal; nothing happens if it has ended."""
        self._require_ours("signal to the child")
        with contextlib.suppress(OSError):
            self._send({"signal": int(number)})

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Exit status of the child, negative the signal that ended it; None if there is no child or it runs on.

        `timeout_s`: how long to wait for its end, in seconds; None without a limit.
        """
        self._require_ours("wait for the child")
        with self._lock:
            if self._status is None and self._started:
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
                try:
                    self._status = int(self._read(deadline)["status"])
                except TimeoutError:
                    return None
                except EOFError:
                    self._status = -signal.SIGKILL  # with its keeper, which somebody has killed
            return self._status

    def close(self) -> None:
        """Kill the child and remove the folder; harmless the second time, and in a fork of this process."""
        if self._forked:
            return
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)  # forks have copies of it
        self._channel.close()
        try:
            self._keeper.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # of a keeper that was killed

    def _send(self, order: dict[str, Any]) -> None:
        self._channel.sendall(json.dumps(order).encode() + b"\n")

    def _expect(self, name: str) -> Any:
        with self._lock:
            try:
                message = self._read(time.monotonic() + _START_TIMEOUT_S)
            except (EOFError, TimeoutError):
                raise OSError("the process that keeps it did not start") from None
        if name not in message:
            raise OSError(f"the process that keeps it could not start it: {message.get('error')}")
        return message[name]

    def _read(self, deadline: float | None) -> dict[str, Any]:
        """Next message of the keeper; EOFError when it is gone."""
        while b"\n" not in self._received:
            try:
                self._channel.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-6))
                data = self._channel.recv(_CHUNK)
            except TimeoutError:
                raise
            except OSError:
                data = b""  # hung up, or closed by us
            if not data:
                raise EOFError
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


def _child_environment() -> dict[str, str]:
    environment = dict(os.environ)
    if path := os.pathsep.join(filter(None, environment.pop("PYTHONPATH", "").split(os.pathsep))):
        environment["PYTHONPATH"] = path
    return environment
