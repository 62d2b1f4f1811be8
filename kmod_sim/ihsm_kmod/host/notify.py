# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The way `notify`: the host's kernel hands system calls of the programs over, and takes our answers."""

from __future__ import annotations

import logging
import threading

from ihsm_kmod.host.calls import Calls
from ihsm_kmod.host.files import HostFiles
from ihsm_kmod.host.seccomp import Listener, Notification

_log = logging.getLogger(__name__)


class Notify:
    """Threads that take calls. There is always one that waits for the next, however many wait for the device."""

    def __init__(self, listener: Listener, files: HostFiles) -> None:
        """Take the calls that arrive there, until no program is left that could make one."""
        self._listener = listener
        self._calls = Calls(listener, files)
        self._lock = threading.Lock()
        self._idle = 0
        self._add_thread()

    def _add_thread(self) -> None:
        threading.Thread(target=self._take_calls, name="notify", daemon=True).start()

    def _take_calls(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            call = self._next_call()
            with self._lock:
                self._idle -= 1
                is_last = not self._idle
            if call is None:
                return
            if is_last:
                try:
                    self._add_thread()
                except RuntimeError as error:  # no more threads: the next call waits until this one is done
                    _log.warning("calls wait for each other: %s", error)
            self._calls.serve(call)

    def _next_call(self) -> Notification | None:
        """Wait for one; None once no program is left that could make one."""
        while (call := self._listener.receive()) is None and self._listener.has_programs():
            pass
        return call
