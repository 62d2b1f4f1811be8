# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The way `notify`: the host's kernel hands system calls of the programs over, and takes our answers."""

from __future__ import annotations

import threading

from ihsm_kmod.host.calls import Calls
from ihsm_kmod.host.files import HostFiles
from ihsm_kmod.host.seccomp import Listener


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
        with self._lock:
            self._idle += 1
        threading.Thread(target=self._take_calls, name="notify", daemon=True).start()

    def _take_calls(self) -> None:
        while True:
            call = self._listener.receive()
            if call is None:
                if self._listener.has_programs():
                    continue
                return
            with self._lock:
                self._idle -= 1
                is_last = not self._idle
            if is_last:
                self._add_thread()
            self._calls.serve(call)
            with self._lock:
                self._idle += 1
