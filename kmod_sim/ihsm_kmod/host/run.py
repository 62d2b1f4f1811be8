# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program of the host on a machine: unmodified, without privilege, and without a virtual machine."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TextIO

from ihsm.bus import VfioUserFunction
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import IhsmError
from ihsm.kept import Kept
from ihsm_kmod.host.become import COULD_NOT_START
from ihsm_kmod.host.empty import EmptyModule
from ihsm_kmod.host.files import HostFiles
from ihsm_kmod.host.launch import Launched
from ihsm_kmod.host.notify import Notify
from ihsm_kmod.host.preload import PreloadServer, preload_environment
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.machine import FIRST_SLOT, SLOTS, Machine, bdf_of_slot

_log = logging.getLogger(__name__)

ARCHITECTURE: Final = "x86_64"
NO_NOTIFY: Final = (errno.EINVAL, errno.EBUSY, errno.EPERM, errno.EACCES, errno.ENOSYS)
"""Errors that mean that the host's kernel hands no calls over, here: `seccomp.install` says which means what."""


class Via(StrEnum):
    """How a program's system calls come to the machine."""

    AUTO = "auto"
    NOTIFY = "notify"
    PRELOAD = "preload"


class RunError(IhsmError):
    """A program that could not be started, for whatever reason."""

    exit_code = COULD_NOT_START


@dataclass(frozen=True)
class RunOptions:
    """The machine that a program is to have."""

    sockets: Sequence[Path] = ()
    """Of functions that are served already."""
    functions: int = 1
    """How many to start besides."""
    parameters: Mapping[str, int | bool] = field(default_factory=dict)
    """Of the driver."""
    quirks: Mapping[str, bool] = field(default_factory=dict)
    """Of the driver, where they are to differ from their default."""
    console: TextIO | None = None
    """Where the kernel's log goes at once."""
    empty: bool = False
    """No functions, and a driver that does nothing."""


def run_program(command: Sequence[str], via: Via, options: RunOptions) -> int:
    """Run a program with a machine's /dev and /sys over those of the host, until it and all that it starts have ended.

    To be called by the main thread of a process that has no others.

    Returns:
        The program's exit status; 128 + N when signal N has ended it.

    Raises:
        RunError: it was not started.
    """
    if platform.machine() != ARCHITECTURE:
        raise RunError(f"programs for {platform.machine()} are not served, only those for {ARCHITECTURE}")
    with contextlib.ExitStack() as stack:
        try:
            sockets = list(options.sockets)
            if options.functions:
                sockets += stack.enter_context(EmbeddedDevice(count=options.functions)).socket_paths
            folder = stack.enter_context(Kept("ihsm-kmod-")).folder
            launched = stack.enter_context(Launched())
            kernel = _boot_empty(stack) if options.empty else _boot(stack, sockets, options)
        except IhsmError as error:
            raise RunError(str(error)) from error
        except Errno as error:
            raise RunError(f"the driver does not load: {error}") from None
        except Oops as oops:
            raise RunError(f"the machine's kernel has crashed: {oops}") from None
        shadow = folder / "shadow"
        shadow.mkdir()
        files = stack.enter_context(HostFiles(kernel, shadow))
        try:
            if via is Via.PRELOAD or not _starts_with_notify(launched, files, command, may_fail=via is Via.AUTO):
                server = stack.enter_context(PreloadServer(files, folder / "preload"))
                launched.start(command, preload_environment(server.path, shadow, os.environ), under_filter=False)
            launched.confirm()
            # What is open is a descriptor of ours, too. The program has been started with the limit that we were.
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except OSError as error:
            raise RunError(f"{command[0]}: {error.strerror}") from None
        return launched.wait()


def _boot_empty(stack: contextlib.ExitStack) -> Kernel:
    """A kernel with the driver that does nothing."""
    kernel = Kernel()
    stack.callback(kernel.close)
    kernel.load(EmptyModule)
    return kernel


def _boot(stack: contextlib.ExitStack, sockets: Sequence[Path], options: RunOptions) -> Kernel:
    """A machine whose functions are where the host has none, so that none of the host's is hidden.

    Raises:
        RunError: the driver takes none of them.
        BusError: there is no device, or others have it.
        Errno: the driver does not load.
    """
    functions = [stack.enter_context(VfioUserFunction(path)) for path in sockets]
    slots = (bdf_of_slot(slot) for slot in range(FIRST_SLOT, SLOTS))
    free = [bdf for bdf in slots if not os.path.exists(f"/sys/bus/pci/devices/{bdf}")]
    if len(free) < len(functions):
        raise RunError(f"{len(functions)} functions, but only {len(free)} slots that the host's PCI bus leaves free")
    bdfs = free[: len(functions)]
    settings: dict[str, Any] = {"quirks": options.quirks, "console": options.console, **options.parameters}
    machine = stack.enter_context(Machine(*functions, bdfs=bdfs, **settings))
    errors = [machine.kernel.pci.probe_error(bdf) for bdf in bdfs]
    if all(errors):
        last = machine.kernel.dmesg().splitlines()[-1:]
        raise RunError(f"the driver refuses the device: {os.strerror(errors[0])}: {''.join(last)}")
    return machine.kernel


def _starts_with_notify(launched: Launched, files: HostFiles, command: Sequence[str], *, may_fail: bool) -> bool:
    """Begin to start the program under a filter. False: that cannot be had here, and `may_fail`.

    Raises:
        OSError: as of `Launched.start`.
    """
    try:
        listener = launched.start(command, {}, under_filter=True)
    except OSError as error:
        if may_fail and error.errno in NO_NOTIFY:
            return False
        raise
    assert listener is not None
    Notify(listener, files)
    return True
