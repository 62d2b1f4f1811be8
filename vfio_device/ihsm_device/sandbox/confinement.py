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
from ihsm_device.errors import SHORTAGES, UserUnusable
from ihsm_device.sandbox import handover, landlock, privileges, system_calls
from ihsm_device.sandbox.landlock import Access
from ihsm_device.sandbox.lookout import Lookout, ReadMaps, read_maps
from ihsm_device.sandbox.privileges import User

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

    def __init__(self, lookout: Lookout | None = None) -> None:
        """Nothing is given up yet; `lookout` shows mappings of clients when this process may not look any more."""
        self.on = False
        self.starter = os.getuid()
        """The user that started the server."""
        self._lookout = lookout
        self._landlock = 0
        self._filtered = False
        self._weaker: list[str] = []

    def leave_root(self, state: Path | None, sockets: Sequence[Path], user: str | None) -> None:
        """Become another user if root started the process; root's `state`, made if there is none, is theirs then.

        To be called before the process has a second thread. `user` is whom root's server becomes; None: as
        `privileges.chosen_user` says.

        Raises:
            NoSuchUser, UserUnusable: there is no such user, or this process cannot become it.
            StateError: another process uses `state`, or somebody else than root has chosen what it is.
        """
        if os.geteuid() != 0:
            if user is not None:
                raise UserUnusable(user, "only root can")
            return
        try:
            privileges.empty_bounding_set()
        except OSError as error:
            self.is_weaker(f"capabilities: those of programs that root executes remain ({error.strerror})")
        privileges.lock_as_much_as_wanted()
        folders = _folders(sockets)
        owned = folders if state is None else [state] if handover.holds_keys_of_root(state) else [state, *folders]
        chosen = privileges.chosen_user(user, owned, ":".join(map(os.fspath, folders)))
        if chosen.uid == 0:
            self._stays_root(None, "as was asked for", state)
            return
        try:
            if (why := _obstacle(chosen, state, folders)) is not None:
                self._stays_root(user, why, state)
                return
            if state is not None:
                handover.hand_over(state, chosen)
            privileges.become(chosen)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            self._stays_root(user, f"it cannot become user {chosen.uid} ({error.strerror})", state)

    def _stays_root(self, wanted: str | None, why: str, state: Path | None) -> None:
        """No warning: it is the rule where root's folders hold the sockets. An error where a user was `wanted`."""
        if wanted is not None:
            raise UserUnusable(wanted, why)
        if state is not None:
            handover.require_roots_alone(state)
        text = f"the device is user 0, without capabilities: {why}"
        _log.info("sandbox: %s", text)
        self._weaker.append(text)

    def restrict(self, state: Path | None, sockets: Sequence[Path]) -> None:
        """Give up all capabilities, and all files but those of `state` and `sockets`.

        To be called before the process has a second thread, and when there is the folder of `state`.

        Raises:
            OSError: the system does not let the process give up what it must.
        """
        self.on = True
        time.tzset()  # reads its file now
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        privileges.keep_capabilities()
        rules = dict.fromkeys(SHOWN_BY_THE_KERNEL, READ) | dict.fromkeys(_folders(sockets), SOCKETS)
        if state is not None:
            state = state.absolute()
            rules[state] = rules.get(state, Access(0)) | STATE
        try:
            self._landlock = landlock.restrict(rules)
        except OSError as error:
            if error.errno in SHORTAGES:  # not what the host lacks, but what this process is short of
                raise
            self.is_weaker(f"files: the device may open what its user may ({error.strerror}: no Landlock)")

    def maps_reader(self, function: int) -> ReadMaps:
        """What shows mappings of a function's clients."""
        return self._lookout.reader(function) if self._lookout else read_maps

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
            "system_calls": system_calls.shown(self._filtered),
            "lookout": self._lookout.record() if self._lookout else None,
            "weaker": [*self._weaker, *(self._lookout.weaker if self._lookout else ())],
        }


def _folders(sockets: Sequence[Path]) -> list[Path]:
    return sorted({path.parent.absolute() for path in sockets})


def _obstacle(user: User, state: Path | None, folders: Sequence[Path]) -> str | None:
    """Why a user cannot do the device's work; a folder for sockets that is missing is for who makes them to tell."""
    written = [folder for folder in folders if folder.exists()]
    entered: list[Path] = []
    if state is not None:
        if (why := handover.obstacle(state, user)) is not None:
            return why
        nearest = next(folder for folder in state.absolute().parents if folder.exists())
        theirs = not state.exists() and handover.chosen_by_others(state) is not None
        (written if theirs else entered).append(nearest)
    folder = privileges.obstacle(user, written, entered)
    return None if folder is None else f"user {user.uid} cannot use {os.fspath(folder)}"
