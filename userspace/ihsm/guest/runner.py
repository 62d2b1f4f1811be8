# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's life: QEMU started, the command's streams carried, its exit status or the reason there is none."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ihsm.guest import accel, initramfs
from ihsm.guest.errors import (
    ConsoleError,
    GuestEndedError,
    GuestPanicError,
    GuestTimeoutError,
    ModuleLoadError,
)
from ihsm.guest.initramfs import GuestCommand, GuestModule
from ihsm.guest.kernel import GuestKernel, find_kernel
from ihsm.guest.machine import Accelerator, Channel, Iommu, MachineConfig
from ihsm.guest.toolchain import Qemu, find_qemu

CONSOLE_LINES = 30
SILENCE_LIMIT_S = 60.0
"""A guest that reports no sign of life for this long is taken for hung; it reports every two seconds."""
_PANIC = "Kernel panic"
_CHUNK = 1 << 16
_CHECK_INTERVAL_S = 0.5
_QUIT_LIMIT_S = 20.0
_CHANNELS = ("control", "stdin", "stdout", "stderr")


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """A guest to run. Time limits in seconds, None for no limit."""

    qemu: Qemu = field(default_factory=find_qemu)
    kernel: GuestKernel = field(default_factory=find_kernel)
    accelerator: Accelerator = Accelerator.AUTO
    iommu: Iommu = Iommu.PASSTHROUGH
    memory: str = "1G"
    cpus: int = 2
    sockets: tuple[Path, ...] = ()
    modules: tuple[GuestModule, ...] = ()
    shares: tuple[Path, ...] = ()
    gdb_port: int | None = None
    extra: tuple[str, ...] = ()
    kernel_arguments: str = ""
    boot_limit_s: float | None = 180.0
    command_limit_s: float | None = 600.0


@dataclass(frozen=True, slots=True)
class Streams:
    """Where the command's streams go; `stdin` None is an empty one."""

    stdin: BinaryIO | None
    stdout: BinaryIO
    stderr: BinaryIO


class Guest:
    """One run of one guest."""

    def __init__(
        self, config: GuestConfig, command: GuestCommand, progress: Callable[[str], None] = lambda text: None
    ) -> None:
        """`progress` is told, a line at a time, what is going on."""
        self.config = config
        self.command = command
        self._progress = progress
        self._status: int | None = None
        self._texts: list[str] = []
        self._partial = b""
        self._failed: str | None = None
        self._ready_at: float | None = None
        self._last_sign = 0.0

    def run(self, streams: Streams | None) -> int:
        """Boot, run the command, return its exit status; `streams` None gives the guest our terminal.

        Raises GuestError or one of its kind: ModuleLoadError, GuestPanicError, GuestTimeoutError, GuestEndedError.
        """
        accelerator = accel.choose(self.config.accelerator, self.config.qemu, self.config.kernel)
        version = self.config.qemu.version_text
        self._progress(f"guest: booting Linux {self.config.kernel.release} in QEMU {version} ({accelerator})")
        with tempfile.TemporaryDirectory(prefix="ihsm-guest-") as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            names = ("control",) if streams is None else _CHANNELS
            ours: dict[str, socket.socket] = {}
            theirs: dict[str, socket.socket] = {}
            for channel in names:
                ours[channel], theirs[channel] = map(stack.enter_context, socket.socketpair())
            machine = self._machine(folder, accelerator, theirs, terminal=streams is None)
            process = subprocess.Popen(
                [self.config.qemu.program, *machine.arguments()],
                stdin=subprocess.DEVNULL if streams else None,
                stdout=subprocess.DEVNULL if streams else None,
                stderr=(folder / "qemu.log").open("wb"),
                pass_fds=[channel.descriptor for channel in machine.channels],
            )
            for end in theirs.values():
                end.close()
            carriers = _carry(ours, streams) if streams else []
            try:
                self._attend(ours["control"], machine.console)
                process.wait(_QUIT_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._progress("guest: QEMU does not end by itself, killing it")
            finally:
                process.kill()
                process.wait()
                for carrier in carriers:
                    carrier.join()
            return self._verdict(process.returncode, folder)

    def _machine(
        self, folder: Path, accelerator: Accelerator, ends: dict[str, socket.socket], *, terminal: bool
    ) -> MachineConfig:
        config = self.config
        # Interactive guests live long enough to meet edits of the host's files, which a loose cache would miss.
        cache = "none" if terminal else "loose"
        archive = folder / "initramfs"
        archive.write_bytes(initramfs.build(config.kernel, self.command, config.modules, config.shares, cache))
        return MachineConfig(
            kernel=config.kernel.bootable(),
            initramfs=archive,
            console=folder / "console",
            accelerator=accelerator,
            iommu=config.iommu,
            memory=config.memory,
            cpus=config.cpus,
            sockets=config.sockets,
            shares=config.shares,
            channels=tuple(Channel(f"ihsm.{name}", end.fileno()) for name, end in ends.items()),
            terminal=terminal,
            gdb_port=config.gdb_port,
            extra=config.extra,
            kernel_arguments=config.kernel_arguments,
        )

    def _attend(self, control: socket.socket, console: Path) -> None:
        """Listen to the guest until it has closed its control channel; enforce the time limits."""
        start = self._last_sign = time.monotonic()
        control.settimeout(_CHECK_INTERVAL_S)
        while True:
            try:
                data = control.recv(_CHUNK)
            except TimeoutError:
                data = None
            if data == b"":
                return
            if data:
                self._last_sign = time.monotonic()
                self._hear(data, start)
            self._check_limits(start, console)

    def _hear(self, data: bytes, start: float) -> None:
        """Take in lines of the guest's init: alive, ready, text LINE, failed WHAT, exit STATUS."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self._ready_at = time.monotonic()
                self._progress(f"guest: ready after {self._ready_at - start:.1f} s")
            elif word == "text":
                self._texts.append(rest)
            elif word == "failed":
                self._failed = rest
            elif word == "exit" and rest.isdigit():
                self._status = int(rest)

    def _check_limits(self, start: float, console: Path) -> None:
        """Raise GuestTimeoutError when a limit is exceeded."""
        if self.config.gdb_port is not None or self._status is not None:
            return
        now = time.monotonic()
        boot, command = self.config.boot_limit_s, self.config.command_limit_s
        if self._ready_at is None:
            if boot is not None and now - start > boot:
                raise GuestTimeoutError(f"the guest was not ready within {boot:.0f} s", _tail(console))
        elif now - self._last_sign > SILENCE_LIMIT_S:
            raise GuestTimeoutError(f"the guest hangs: no sign of life for {SILENCE_LIMIT_S:.0f} s", _tail(console))
        elif command is not None and now - self._ready_at > command:
            raise GuestTimeoutError(f"the command did not end within {command:.0f} s", _tail(console))

    def _verdict(self, qemu_status: int, folder: Path) -> int:
        """The command's exit status, or the exception that says why there is none."""
        if self._status is not None:
            return self._status
        if self._failed is not None:
            what, _, detail = self._failed.partition(" ")
            if what == "module":
                raise ModuleLoadError(detail, self._texts)
            raise ConsoleError(f"the guest could not mount {detail or what}", _tail(folder / "console"))
        console = _tail(folder / "console")
        if any(_PANIC in line for line in console):
            raise GuestPanicError("the guest's kernel panicked", console)
        complaint = (folder / "qemu.log").read_text(errors="replace").strip().splitlines()
        if complaint:
            raise GuestEndedError(f"QEMU ended with status {qemu_status}: {complaint[-1]}", console)
        raise GuestEndedError("the guest shut down before its command ended", console)


def _carry(ends: dict[str, socket.socket], streams: Streams) -> list[threading.Thread]:
    """Start a thread per stream of the command; each ends with QEMU."""
    jobs: list[tuple[Callable[..., None], tuple[object, ...]]] = [
        (_carry_out, (ends["stdout"], streams.stdout)),
        (_carry_out, (ends["stderr"], streams.stderr)),
        (_carry_in, (ends["stdin"], streams.stdin)),
    ]
    threads = [threading.Thread(target=target, args=words, daemon=True) for target, words in jobs]
    for thread in threads:
        thread.start()
    return threads


def _carry_out(end: socket.socket, sink: BinaryIO) -> None:
    while data := end.recv(_CHUNK):
        # A sink that was closed early (a pager, head) must not stop the guest.
        with contextlib.suppress(BrokenPipeError):
            sink.write(data)
            sink.flush()


def _carry_in(end: socket.socket, source: BinaryIO | None) -> None:
    with end, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while source is not None:
            # The guest's end becomes readable when QEMU goes.
            ready, _, _ = select.select([source.fileno(), end.fileno()], [], [])
            if end.fileno() in ready:
                return
            data = os.read(source.fileno(), _CHUNK)
            if not data:
                return
            end.sendall(data)


def _tail(console: Path) -> list[str]:
    text = console.read_text(errors="replace") if console.exists() else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()][-CONSOLE_LINES:]
