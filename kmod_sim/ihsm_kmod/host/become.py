# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Become a program of the machine: `python -m ihsm_kmod.host.become CHANNEL PROGRAM ARGS...`.

A process of its own does that, because nobody can put another under a filter, and because it must have no threads.
CHANNEL is an inherited socket. One message comes, what is to be done (`Orders`); the filter's listener goes back, if
there is to be one; and then nothing, or the number of the error that was in the way.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
from typing import Final, NoReturn, TypedDict

from ihsm_kmod.host import seccomp

PROBE: Final = "/dev/ihsm-probe"
"""Looked at once under the filter: whether that is answered shows whether calls may be taken here."""
COULD_NOT_START: Final = 125
"""Exit status, as of env(1)."""
MESSAGE_BYTES: Final = 1 << 16
IGNORED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)
_PR_SET_PDEATHSIG: Final = 1


class Orders(TypedDict):
    """What is to be done before the program runs."""

    filter: bool
    """Whether its system calls are to be taken."""
    environment: dict[str, str]
    """Variables that it is to have, besides ours."""


def main(channel_fd: str, program: str, *arguments: str) -> NoReturn:
    """Never returns: another program runs, or this one has said why not."""
    # Once we are under the filter an import would be a call that nobody takes yet: send_fds would do this one.
    array.array("i")
    with socket.socket(fileno=int(channel_fd)) as channel:
        channel.set_inheritable(False)
        orders: Orders = json.loads(channel.recv(MESSAGE_BYTES))
        os.environ.update(orders["environment"])
        # Who takes our calls is gone if our parent is, and each of them would fail.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        try:
            if orders["filter"]:
                listener = seccomp.install(seccomp.filter_program())
                socket.send_fds(channel, [b"+"], [listener])
                os.close(listener)
                os.access(PROBE, os.F_OK)
            for number in IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            os.execvp(program, [program, *arguments])
        except OSError as error:
            with contextlib.suppress(OSError):
                channel.send(str(error.errno).encode())
    os._exit(COULD_NOT_START)


if __name__ == "__main__":
    main(*sys.argv[1:])
