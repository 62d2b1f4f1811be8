# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a server process gives up: first user, capabilities and files, then, when it serves, all calls but its own."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ihsm_abi import seccomp
from ihsm_device.errors import UserUnusable
from ihsm_device.sandbox import landlock, privileges, system_calls
from ihsm_device.sandbox.landlock import Access

_log = logging.getLogger(__name__)

READ: Final = Access.READ_FILE | Access.READ_DIR
STATE: Final = READ | Access.WRITE_FILE | Access.MAKE_REG | Access.REMOVE_FILE | Access.TRUNCATE
SOCKETS: Final = Access.WRITE_FILE | Access.MAKE_REG | Access.MAKE_SOCK | Access.REMOVE_FILE
"""Of a folder that may be everybody's: lock files are made and removed in it, nothing in it is read."""
SHOWN_BY_THE_KERNEL: Final = (Path("/proc"), Path("/sys/devices/virtual/bdi"), Path("/dev/null"))
"""Who a client is; which file systems its files are of; what interrupts are an empty read of (native/descriptors.c).
Of other processes' secrets Landlock shows nothing."""


class Confinement:
    """Of this process. What cannot be had here is named, and the device works without it."""

    def __init__(self) -> None:
        """Nothing is given up yet."""
        self.on = False
        self.starter = os.getuid()
        """The user that started the server."""
        self._landlock = 0
        self._filtered = False
        self._weaker: list[str] = []

    def restrict(self, state: Path | None, sockets: Sequence[Path], user: str | None) -> None:
        """Give up the user, if that is root, all capabilities, and all files but those of `state` and `sockets`.

        To be called before the process has a second thread, and with `state` locked: it may be given to another user,
        and must not be taken from a process that uses it. `user` is whom root's server becomes; None: as
        `privileges.chosen_user` says.

        Raises:
            NoSuchUser, UserUnusable: there is no such user, or this process cannot become it.
            OSError: the system does not let the process give up what it must.
        """
        self.on = True
        time.tzset()  # reads its file now
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if state is not None:
            state = state.absolute()
        folders = sorted({path.parent.absolute() for path in sockets})
        if os.geteuid() == 0:
            self._leave_root(state, folders, user)
        elif user is not None:
            raise UserUnusable(user, "only root can")
        privileges.drop_capabilities()
        rules = dict.fromkeys(SHOWN_BY_THE_KERNEL, READ) | dict.fromkeys(folders, SOCKETS)
        if state is not None:
            rules[state] = rules.get(state, Access(0)) | STATE
        try:
            self._landlock = landlock.restrict(rules)
        except OSError as error:
            self.is_weaker(f"files: the device may open what its user may ({error.strerror}: no Landlock)")

    def _leave_root(self, state: Path | None, folders: Sequence[Path], name: str | None) -> None:
        privileges.lock_as_much_as_wanted()
        owned = [*([state] if state else []), *folders]
        user = privileges.chosen_user(name, owned, ":".join(map(os.fspath, folders)))
        if user.uid == 0:
            self._stays_root(None, "as was asked for")
            return
        try:
            if (folder := privileges.obstacle(user, folders, [state.parent] if state else [])) is not None:
                self._stays_root(name, f"user {user.uid} cannot use {os.fspath(folder)}")
                return
            if state is not None:
                privileges.give(state, user)
            privileges.become(user)
        except OSError as error:
            self._stays_root(name, f"it cannot become user {user.uid} ({error.strerror})")

    def _stays_root(self, wanted: str | None, why: str) -> None:
        """No warning: it is the rule where root's folders hold the sockets. An error where a user was `wanted`."""
        if wanted is not None:
            raise UserUnusable(wanted, why)
        text = f"the device is user 0, without capabilities: {why}"
        _log.info("sandbox: %s", text)
        self._weaker.append(text)

    def filter_calls(self) -> None:
        """Give up all system calls but those of a device that serves, in all threads."""
        try:
            system_calls.restrict()
            self._filtered = True
        except OSError as error:
            self.is_weaker(f"system calls: the device may make all of them ({error.strerror})")

    def is_weaker(self, why: str) -> None:
        """Something cannot be had here: the log and the status say it."""
        _log.warning("sandbox: %s", why)
        self._weaker.append(why)

    def record(self) -> Mapping[str, Any]:
        """What is active, for the control socket."""
        return {
            "on": self.on,
            "user": os.getuid(),
            "no_new_privileges": seccomp.has_no_new_privileges(),
            "capabilities": f"{privileges.capabilities():#x}",
            "landlock": self._landlock or None,
            "system_calls": "filtered" if self._filtered else "all",
            "weaker": list(self._weaker),
        }
