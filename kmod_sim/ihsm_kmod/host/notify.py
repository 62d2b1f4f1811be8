# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The way `notify`: the host's kernel hands system calls of the programs over, and takes our answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ihsm_kmod.host.calls import Calls
from ihsm_kmod.host.files import HostFiles
from ihsm_kmod.host.seccomp import Listener, Notification

_log = logging.getLogger(__name__)

TICK_S: Final = 0.001
"""After which a call that nobody could take is taken by another thread."""


class Notify:
    """Threads that take calls: as many as there are calls at a time.

    Usually that is one, which is faster than two in turn: what it needs is where its processor finds it. Another one
    stands in while all wait for the device, and ends when it is not needed any more.
    """

    def __init__(self, listener: Listener, files: HostFiles) -> None:
        """Take the calls that arrive there, until no program is left that could make one."""
        self._listener = listener
        self._calls = Calls(listener, files)
        self._lock = threading.Lock()
        self._waiting = 0
        """Threads that wait for a call."""
        self._working = 0
        """Threads that are at work on one."""
        self._taken = 0
        """Calls so far."""
        self._are_taken = threading.Event()
        """Calls are taken, or have been a moment ago."""
        self._start(self._take_calls)
        self._start(self._stand_in)

    def _start(self, run: Callable[[], None]) -> None:
        threading.Thread(target=run, name="notify", daemon=True).start()

    def _take_calls(self) -> None:
        while True:
            with self._lock:
                if self._waiting and not self._working:
                    return
                self._waiting += 1
            call = self._next_call()
            with self._lock:
                self._waiting -= 1
                if call is None:
                    return
                self._working += 1
                self._taken += 1
                if not self._are_taken.is_set():
                    self._are_taken.set()
            try:
                self._calls.serve(call)
            finally:
                with self._lock:
                    self._working -= 1

    def _next_call(self) -> Notification | None:
        """Wait for one; None once no program is left that could make one."""
        while (call := self._listener.receive()) is None and self._listener.has_programs():
            pass
        return call

    def _stand_in(self) -> None:
        """See that somebody waits for calls."""
        told = 0
        while self._are_taken.wait():
            taken = self._taken
            time.sleep(TICK_S)
            with self._lock:
                if self._taken != taken:
                    continue
                is_needed = not self._waiting
                if not self._working:
                    self._are_taken.clear()
            if is_needed:
                try:
                    self._start(self._take_calls)
                except RuntimeError as error:  # no more threads: the next call waits until one is done
                    if told != taken:  # once for all the ticks of a call
                        _log.warning("calls wait for each other: %s", error)
                    told = taken
