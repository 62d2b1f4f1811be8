# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Starting a program of the machine, and seeing it and all that it starts to their ends."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ihsm.closing import Closing
from ihsm.kept import MODULE_OPTIONS
from ihsm_kmod.host.become import Orders
from ihsm_kmod.host.seccomp import Listener

FORWARDED: Final = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are meant for the program when we get them."""
OF_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT)
"""Signals that a terminal sends to the program, too."""
TERMINAL: Final = "/dev/tty"
ORPHANS_LOOK_S: Final = 0.1
"""How often it is looked whether what the program has left running still runs."""
_PR_SET_CHILD_SUBREAPER: Final = 36
_REFUSAL_BYTES: Final = 16
_SIGNALS_AT_ONCE: Final = 64


class Launched(Closing):
    """A program, from start to end. To be made by the main thread."""

    def __init__(self) -> None:
        """Nothing runs yet; signals are kept for `wait` from now on."""
        # Of ours even when its parent has ended: we may then still look into its memory (prctl(2), PR_SET_PTRACER).
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before: frozenset[int] = frozenset()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        # Not a mask and sigwait(3): libraries have threads already, which would take the signals.
        self._signals, self._arrived = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former_wakeup = signal.set_wakeup_fd(self._arrived)
        self._former = {
            number: signal.signal(number, lambda *_: None)
            for number in (*FORWARDED, *OF_TERMINAL, signal.SIGCHLD)
            if signal.getsignal(number) is not signal.SIG_IGN  # nohup(1), or a shell's background
        }

    def start(self, command: Sequence[str], environment: Mapping[str, str], *, under_filter: bool) -> Listener | None:
        """Begin to start it; `confirm` says whether it runs.

        Args:
            command: program and arguments.
            environment: variables that it gets besides ours.
            under_filter: whether its system calls are to be taken: the result is where they arrive.

        Raises:
            OSError: it was not started; as of `seccomp.install`, or its calls may not be taken here.
        """
        self._before = frozenset(_children())
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo:
            undo.enter_context(ours)
            with theirs:
                become = [sys.executable, *MODULE_OPTIONS, "ihsm_kmod.host.become", str(theirs.fileno()), *command]
                self._child = subprocess.Popen(become, pass_fds=(theirs.fileno(),))
            undo.callback(self._kill)
            orders: Orders = {"filter": under_filter, "environment": dict(environment)}
            ours.send(json.dumps(orders).encode())
            listener = _take_listener(ours) if under_filter else None
            self._channel = ours
            undo.pop_all()
        return listener

    def confirm(self) -> None:
        """Wait until the program runs; OSError if it does not, as of execve(2)."""
        assert self._channel is not None, "start() first"
        with self._channel:
            refused = self._channel.recv(_REFUSAL_BYTES)
        if refused:
            self._kill()
            raise _error(int(refused))

    def wait(self) -> int:
        """Wait for the end of the program and of all that it has started; its exit status, 128 + N after signal N.

        Signals that we get meanwhile go to the program and, once that has ended, end what it has left running.
        """
        assert self._child is not None, "start() first"
        status: int | None = None
        while status is None or self._left():
            select.select([self._signals], [], [], ORPHANS_LOOK_S)
            self._reap()
            status = self._child.poll()
            for number in self._read_signals():
                for pid in (self._child.pid,) if status is None else self._left():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
        return status if status >= 0 else 128 - status

    def close(self) -> None:
        """Kill what runs, and take signals as before."""
        if self._child is not None and self._child.poll() is None:
            self._kill()
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        os.close(self._signals)
        os.close(self._arrived)

    def _read_signals(self) -> Iterator[int]:
        """What has arrived for the program."""
        try:
            arrived = os.read(self._signals, _SIGNALS_AT_ONCE)
        except BlockingIOError:
            return
        for number in arrived:
            if number in FORWARDED or (number in OF_TERMINAL and not _has_terminal()):
                yield number

    def _left(self) -> list[int]:
        """Children that we got since: the program, and orphans of its."""
        return [pid for pid in _children() if pid not in self._before]

    def _reap(self) -> None:
        assert self._child is not None
        for pid in self._left():
            if pid != self._child.pid:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def _kill(self) -> None:
        assert self._child is not None
        self._child.kill()
        self._child.wait()


def _take_listener(channel: socket.socket) -> Listener:
    """The filter's listener, once it is seen that calls may be taken there."""
    data, descriptors, *_ = socket.recv_fds(channel, _REFUSAL_BYTES, 1)
    if not descriptors:
        raise _error(int(data or errno.EIO))
    listener = Listener(descriptors[0])
    try:
        probe = listener.receive()
        if probe is None:
            raise _error(errno.EIO)
        listener.fail(probe, errno.ENOENT)
    except BaseException:
        listener.close()
        raise
    return listener


def _has_terminal() -> bool:
    """Whether we are in the foreground of a terminal, and the program with us."""
    try:
        terminal = os.open(TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _children() -> list[int]:
    """Our children, whichever of our threads has started them."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found += map(int, (thread / "children").read_text().split())
    return found


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
