# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Starting a program of the machine, and seeing it and all that it starts to their ends."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
SI_KERNEL: Final = 0x80
"""Who has sent a signal if it was the kernel, for a terminal (sigaction(2))."""
ORPHANS_LOOK_S: Final = 0.1
"""How often it is looked whether what the program has left running still runs."""
_PR_SET_CHILD_SUBREAPER: Final = 36
_REFUSAL_BYTES: Final = 16


class Launched(Closing):
    """A program, from start to end. To be made by the main thread before it starts others, which inherit its mask."""

    def __init__(self) -> None:
        """Nothing runs yet; signals are kept for `wait` from now on."""
        self._former_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, *OF_TERMINAL, signal.SIGCHLD})
        # Of ours even when its parent has ended: we may then still look into its memory (prctl(2), PR_SET_PTRACER).
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before: frozenset[int] = frozenset()
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

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
            blocked = sorted(int(number) for number in self._former_mask)
            orders: Orders = {"filter": under_filter, "blocked": blocked, "environment": dict(environment)}
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
            got = signal.sigtimedwait({*FORWARDED, *OF_TERMINAL, signal.SIGCHLD}, ORPHANS_LOOK_S)
            self._reap()
            status = self._child.poll()
            if got is None or got.si_signo == signal.SIGCHLD:
                continue
            if got.si_signo in OF_TERMINAL and got.si_code == SI_KERNEL:
                continue
            for pid in (self._child.pid,) if status is None else self._left():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, got.si_signo)
        return status if status >= 0 else 128 - status

    def close(self) -> None:
        """Kill what runs, and take signals as before."""
        if self._child is not None and self._child.poll() is None:
            self._kill()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._former_mask)

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


def _children() -> list[int]:
    """Our children, whichever of our threads has started them."""
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found += map(int, (thread / "children").read_text().split())
    return found


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
