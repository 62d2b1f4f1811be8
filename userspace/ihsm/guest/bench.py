# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that stays: modules are rebuilt and loaded anew in it, and the command run again."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ihsm.closing import Closing
from ihsm.guest.errors import GuestError, ModuleUnloadError
from ihsm.guest.initramfs import GuestCommand, GuestModule, Mode
from ihsm.guest.runner import RunningGuest
from ihsm.guest.session import Session
from ihsm.guest.streams import Streams

_LOOK_EVERY_S = 0.2


class Bench(Closing):
    """A session's device, and a guest that has it for one run after the other. One thread runs."""

    def __init__(self, session: Session) -> None:
        """Nothing is started yet."""
        self.session = session
        self._devices = contextlib.ExitStack()
        self._closing = contextlib.ExitStack()
        self._guest: RunningGuest | None = None
        self._sockets: tuple[Path, ...] | None = None

    def run(self, streams: Streams, command: GuestCommand | None = None) -> int:
        """Build, load and run as things stand now; the command's exit status.

        `command` None is that of the session. Errors as those of `Session.run`; after one that leaves the guest unfit,
        such as a module that does not unload, the next run boots a new one.
        """
        with contextlib.ExitStack() as stack:
            modules = self.session.built(stack)
            command = command or self.session.command()
            guest = self._guest
            if guest is not None and not guest.alive:
                self.session.progress("guest: the last run ended the guest; booting another one")
                self._discard()
                guest = None
            began = time.monotonic()
            try:
                if guest is None:
                    guest = self._boot(command, modules)
                    status = guest.first(streams)
                else:
                    status = guest.again(command, modules, streams)
                    self.session.progress(f"guest: ran again in {time.monotonic() - began:.1f} s")
            except ModuleUnloadError:
                self.interrupt()
                raise
            finally:
                if self._guest is not None:
                    self.session.tell(self._guest.complaints(), modules)
            return status

    def _boot(self, command: GuestCommand, modules: list[GuestModule]) -> RunningGuest:
        if self._sockets is None:
            self._sockets = self.session.ready(self._devices, modules).sockets
        config = replace(self.session.config, sockets=self._sockets, modules=tuple(modules))
        self._guest = self._closing.enter_context(
            RunningGuest(config, command, Mode.KEPT, self.session.progress, self.session.loaded)
        )
        return self._guest

    def _discard(self) -> None:
        self._guest = None
        self._closing.close()

    def interrupt(self) -> None:
        """End the guest, from any thread; a run that is going on ends with an error."""
        if (guest := self._guest) is not None:
            guest.kill()

    def close(self) -> None:
        """End guest and device; harmless the second time."""
        self._discard()
        self._devices.close()


def watch(bench: Bench, folder: Path, streams: Streams, say: Callable[[str], None]) -> NoReturn:
    """Run, and again whenever something below `folder` has changed, for ever; failures are told and end nothing.

    `say` is told, a line or more at a time, how each run ended.
    """
    seen = _stamps(folder)
    while True:
        try:
            say(f"guest: exit status {bench.run(streams)}")
        except GuestError as error:
            say(f"Error: {error}")
        say(f"guest: waiting for a change below {folder}")
        seen = _changed(folder, seen)


def _changed(folder: Path, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Wait until the folder is another one than `before`, and the same twice: an editor writes more than one file."""
    while (now := _stamps(folder)) == before:
        time.sleep(_LOOK_EVERY_S)
    while True:
        time.sleep(_LOOK_EVERY_S)
        if (then := _stamps(folder)) == now:
            return now
        now = then


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> time of its last change in nanoseconds and size, but for what editors and version control keep there."""
    return {entry.path: (status.st_mtime_ns, status.st_size) for entry, status in _files(folder)}


def _files(folder: str | os.PathLike[str]) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # what is gone by now is no part of it
        for entry in entries:
            if entry.name.startswith((".", "#")) or entry.name.endswith(("~", ".swp")):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                with contextlib.suppress(OSError):
                    yield entry, entry.stat()
