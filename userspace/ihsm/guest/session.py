# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A whole session: modules built and read, a device started, a guest that has it, a command's exit status."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ihsm.bus.vfio_bind import GUEST_VARIABLE
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import EmbeddedDeviceError
from ihsm.guest.errors import GuestError
from ihsm.guest.initramfs import GuestCommand, GuestModule
from ihsm.guest.kernel import GuestKernel, module_bytes
from ihsm.guest.kernel_log import Complaint
from ihsm.guest.modbuild import build_modules
from ihsm.guest.runner import Guest, GuestConfig
from ihsm.guest.sections import Loaded
from ihsm.guest.streams import Streams
from ihsm.guest.symbols import SourceLines
from ihsm.kept import Kept

_KEPT_VARIABLES = ("HOME", "TERM", "LANG", "COLUMNS", "LINES", "USER", "LOGNAME", "NO_COLOR")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the guest's kernel complained of, and where in a module under test it comes from, if it does.

    `times`: how often, the same thing from the same place.
    """

    complaint: Complaint
    source: str | None
    times: int = 1

    def __str__(self) -> str:
        """One line."""
        place = self.source or (f"at {self.complaint.place}" if self.complaint.place else None)
        often = f", {self.times} times" if self.times > 1 else ""
        return f"{self.complaint} ({place}){often}" if place else f"{self.complaint}{often}"


@dataclass(frozen=True, slots=True)
class Session:
    """What `ihsm guest` was asked for.

    `modules` are "KO [NAME=VALUE ...]", where KO is a file or the name of a module of the guest's kernel. `report` is
    told what the guest's kernel complained of, after the command and before what `run` returns or raises, `loaded`
    where modules lie in a guest that has a debugger.
    """

    config: GuestConfig
    shell: str | None
    modules: Sequence[str] = ()
    build: Sequence[Path] = ()
    devices: int = 1
    device_arguments: Sequence[str] = ()
    progress: Callable[[str], None] = lambda text: None
    report: Callable[[Finding], None] = lambda finding: None
    loaded: Callable[[Loaded], None] = lambda loaded: None

    def run(self, streams: Streams | None) -> int:
        """Run it; the command's exit status. Raises GuestError or one of its kind."""
        with contextlib.ExitStack() as stack:
            modules = self.built(stack)
            guest = Guest(self.ready(stack, modules), self.command(), self.progress, self.loaded)
            try:
                return guest.run(streams)
            finally:
                self.tell(guest.complaints, modules)

    def command(self) -> GuestCommand:
        """What the guest runs, as things stand now."""
        return GuestCommand(self.shell, current_folder(), guest_environment())

    def ready(self, stack: contextlib.ExitStack, modules: Sequence[GuestModule]) -> GuestConfig:
        """The guest to run, whose devices are there until `stack` ends."""
        sockets = self.config.sockets
        if self.devices:
            device = stack.enter_context(_start_device(self.device_arguments, self.devices))
            self.progress(f"device: listening on {', '.join(map(str, device.socket_paths))}")
            sockets = (*sockets, *device.socket_paths)
        return replace(self.config, sockets=sockets, modules=tuple(modules))

    def tell(self, complaints: Sequence[Complaint], modules: Sequence[GuestModule]) -> None:
        """Report complaints, each with its place in the source, and the same one once."""
        lines = SourceLines(modules)
        found: dict[tuple[str, str | None], Finding] = {}
        for complaint in complaints:
            finding = Finding(complaint, lines.place(complaint))
            key = str(complaint), finding.source
            found[key] = replace(found[key], times=found[key].times + 1) if key in found else finding
        for finding in found.values():
            self.report(finding)

    def built(self, stack: contextlib.ExitStack) -> list[GuestModule]:
        """The modules to load, some built now; what was built is there until `stack` ends.

        Raises GuestError.
        """
        modules: list[GuestModule] = []
        for source in self.build:
            self.progress(f"module: building {source} against Linux {self.config.kernel.release}")
            work = stack.enter_context(Kept("ihsm-modules-"))
            for file in build_modules(source, self.config.kernel, work.folder):
                modules += read_module(str(file), self.config.kernel)
        for text in self.modules:
            modules += read_module(text, self.config.kernel)
        # A dependency two modules share is loaded once.
        return list({module.name: module for module in modules}.values())


def current_folder() -> Path:
    """Where the command starts; the root for a folder that was removed meanwhile."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def _start_device(arguments: Sequence[str], count: int) -> EmbeddedDevice:
    try:
        return EmbeddedDevice(arguments, count)
    except EmbeddedDeviceError as error:
        raise GuestError(str(error)) from None


def read_module(text: str, kernel: GuestKernel) -> list[GuestModule]:
    """The module "KO [NAME=VALUE ...]" and, before it, the modules of the guest's kernel that it needs."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise GuestError(f"module {text!r}: {error}") from None
    if not words:
        raise GuestError("a module was named by an empty string")
    file, parameters = Path(words[0]), " ".join(words[1:])
    if not words[0].endswith(".ko") and "/" not in words[0]:
        files = kernel.load_order([words[0]])
        return [GuestModule(path.name, module_bytes(path), parameters if path is files[-1] else "") for path in files]
    if not file.is_file():
        raise GuestError(f"{file}: no such module file")
    needed = kernel.load_order(_needs(file))
    return [
        *(GuestModule(path.name, module_bytes(path)) for path in needed),
        GuestModule(str(file), module_bytes(file), parameters, tested=True, file=file),
    ]


def guest_environment() -> dict[str, str]:
    """Environment of a guest's command: this Python's programs first on PATH."""
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment["PATH"] = f"{Path(sys.executable).parent}:{_SYSTEM_PATH}"
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["XDG_RUNTIME_DIR"] = "/run/user"
    # Threads of numpy's linear algebra, which nobody here uses, would spin on processors that are programs themselves.
    environment["OPENBLAS_NUM_THREADS"] = "1"
    environment[GUEST_VARIABLE] = "1"
    return environment


def _needs(file: Path) -> list[str]:
    """Names of the modules a module file depends on (modinfo)."""
    done = subprocess.run(
        ["/sbin/modinfo", "-F", "depends", file],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise GuestError(f"{file}: not a kernel module: {done.stderr.strip()}")
    return [name for name in done.stdout.strip().split(",") if name]
