# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""This process stands still for a while, as one that is stopped from outside does (SIGSTOP)."""

from __future__ import annotations

import ctypes
import signal
import struct
import threading
from typing import Final

from ihsm_abi.libc import LIBC, checked

_SIGEVENT: Final = struct.Struct("@Pii48x")
"""struct sigevent: value, signal, and how it is told, here SIGEV_SIGNAL (sigevent(3type))."""
_ITIMERSPEC: Final = struct.Struct("=qqqq")
"""struct itimerspec: no interval, seconds, nanoseconds."""
_SIGEV_SIGNAL: Final = 0
_CLOCK_MONOTONIC: Final = 1


def pause(seconds: float) -> None:
    """Stop all threads of the process, and return when they have gone on, which a SIGCONT of others has them do too.

    A stopped process cannot wake itself, but one of its timers can: SIGCONT works when it is sent (signal(7)).

    Raises:
        OSError: the system gives no timer.
    """
    timer = ctypes.c_void_p()
    event = _SIGEVENT.pack(0, signal.SIGCONT, _SIGEV_SIGNAL)
    checked(LIBC.timer_create(_CLOCK_MONOTONIC, event, ctypes.byref(timer)))
    try:
        whole, part = divmod(seconds, 1)
        checked(LIBC.timer_settime(timer, 0, _ITIMERSPEC.pack(0, 0, int(whole), max(1, int(part * 1e9))), None))
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # to this thread, which does not go on before it
    finally:
        LIBC.timer_delete(timer)
