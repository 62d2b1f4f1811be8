# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's life: QEMU started, the command's streams carried, its exit status or the reason there is none."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ihsm.errors import OutputError
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
from ihsm.kept import Kept
from ihsm_abi.sockets import SOCKET_SUFFIX, is_utf8

CONSOLE_LINES = 30
QEMU_LINES = 15
_PANIC = "Kernel panic"
_TROUBLE = ("BUG:", "Oops", "general protection fault", _PANIC)
_CHUNK = 1 << 16
_CHECK_INTERVAL_S = 0.5
_QUIT_LIMIT_S = 20.0
_QEMU_LOG = "qemu.log"
_CONSOLE = "console"
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
    silence_limit_s: float = 60.0
    """A ready guest that reports no sign of life for this long is taken for hung; it reports every two seconds."""


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
        # Ends stdout and stderr: ports have no end of their own that the host could see.
        self._end = b"\0ihsm-end-" + secrets.token_hex(16).encode() + b"\n"
        self._partial = b""
        self._failed: str | None = None
        self._ready_at: float | None = None
        self._listening = threading.Event()
        self._last_sign = 0.0
        self._lost: list[OSError] = []

    def run(self, streams: Streams | None) -> int:
        """Boot, run the command, return its exit status; `streams` None gives the guest our terminal.

        Raises GuestError or one of its kind: ModuleLoadError, GuestPanicError, GuestTimeoutError, GuestEndedError.
        """
        accelerator = accel.choose(self.config.accelerator, self.config.qemu, self.config.kernel)
        version = self.config.qemu.version_text
        self._progress(f"guest: booting Linux {self.config.kernel.release} in QEMU {version} ({accelerator})")
        with contextlib.ExitStack() as stack:
            names = ("control",) if streams is None else _CHANNELS
            ours: dict[str, socket.socket] = {}
            theirs: dict[str, socket.socket] = {}
            for channel in names:
                ours[channel], theirs[channel] = map(stack.enter_context, socket.socketpair())
            descriptors = [end.fileno() for end in theirs.values()]
            qemu = stack.enter_context(Kept("ihsm-guest-", descriptors, terminal=streams is None))
            folder = qemu.folder
            sockets = tuple(_named_in_utf8(self.config.sockets, stack))
            machine = self._machine(folder, accelerator, theirs, sockets, terminal=streams is None)
            logged = (1, 2) if streams else (2,)
            qemu.start([self.config.qemu.program, *machine.arguments()], logged=logged, log=_QEMU_LOG)
            for end in theirs.values():
                end.close()
            outputs, feed = self._carry(ours, streams) if streams else ([], None)
            try:
                self._attend(ours["control"], folder)
                if self._status is not None:
                    for carrier in outputs:
                        carrier.join(_QUIT_LIMIT_S)
                    qemu.send_signal(signal.SIGTERM)
                qemu.wait(_QUIT_LIMIT_S)
            finally:
                qemu.send_signal(signal.SIGKILL)
                status = qemu.wait()
                self._listening.set()
                for carrier in (*outputs, *([feed] if feed else [])):
                    carrier.join()
            assert status is not None  # it was started
            verdict = self._verdict(status, folder)
            if self._lost:
                raise OutputError(f"output of the command: {self._lost[0].strerror}")
            return verdict

    def _machine(
        self,
        folder: Path,
        accelerator: Accelerator,
        ends: dict[str, socket.socket],
        sockets: tuple[Path, ...],
        *,
        terminal: bool,
    ) -> MachineConfig:
        config = self.config
        # Interactive guests live long enough to meet edits of the host's files, which a loose cache would miss.
        cache = "none" if terminal else "loose"
        archive = folder / "initramfs"
        archive.write_bytes(
            initramfs.build(config.kernel, self.command, config.modules, config.shares, cache, self._end)
        )
        return MachineConfig(
            kernel=config.kernel.bootable(),
            initramfs=archive,
            console=folder / _CONSOLE,
            accelerator=accelerator,
            iommu=config.iommu,
            memory=config.memory,
            cpus=config.cpus,
            sockets=sockets,
            shares=config.shares,
            channels=tuple(Channel(f"ihsm.{name}", end.fileno()) for name, end in ends.items()),
            terminal=terminal,
            gdb_port=config.gdb_port,
            extra=config.extra,
            kernel_arguments=config.kernel_arguments,
        )

    def _carry(
        self, ends: dict[str, socket.socket], streams: Streams
    ) -> tuple[list[threading.Thread], threading.Thread]:
        """Start a thread per stream of the command; the ones for output end with the command, all with QEMU."""
        pairs = ((ends["stdout"], streams.stdout), (ends["stderr"], streams.stderr))
        threads = [
            threading.Thread(target=_carry_out, args=(*pair, self._end, self._lost), daemon=True) for pair in pairs
        ]
        feed = threading.Thread(target=_carry_in, args=(ends["stdin"], streams.stdin, self._listening), daemon=True)
        for thread in (*threads, feed):
            thread.start()
        return threads, feed

    def _attend(self, control: socket.socket, folder: Path) -> None:
        """Listen to the guest until it reports an exit status or is gone; enforce the time limits."""
        start = self._last_sign = time.monotonic()
        control.settimeout(_CHECK_INTERVAL_S)
        while self._status is None:
            try:
                data = control.recv(_CHUNK)
            except TimeoutError:
                data = None
            if data == b"":
                return
            if data:
                self._last_sign = time.monotonic()
                self._hear(data, start)
            self._check_limits(start, folder)

    def _hear(self, data: bytes, start: float) -> None:
        """Take in lines of the guest's init: alive, ready, text LINE, failed WHAT, exit STATUS."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                self._ready_at = time.monotonic()
                self._listening.set()
                self._progress(f"guest: ready after {self._ready_at - start:.1f} s")
            elif word == "text":
                self._texts.append(rest)
            elif word == "failed":
                self._failed = rest
            elif word == "exit" and rest.isdigit():
                self._status = int(rest)

    def _check_limits(self, start: float, folder: Path) -> None:
        """Raise GuestTimeoutError when a limit is exceeded."""
        if self.config.gdb_port is not None:
            return
        now = time.monotonic()
        boot, command = self.config.boot_limit_s, self.config.command_limit_s
        if self._ready_at is None:
            if boot is not None and now - start > boot:
                raise GuestTimeoutError(f"the guest was not ready within {boot:.0f} s", *_last_words(folder))
        elif now - self._last_sign > self.config.silence_limit_s:
            silence = f"no sign of life for {self.config.silence_limit_s:.0f} s"
            raise GuestTimeoutError(f"the guest hangs: {silence}", *_last_words(folder))
        elif command is not None and now - self._ready_at > command:
            raise GuestTimeoutError(f"the command did not end within {command:.0f} s", *_last_words(folder))

    def _verdict(self, qemu_status: int, folder: Path) -> int:
        """The command's exit status, or the exception that says why there is none."""
        if self._status is not None:
            return self._status
        if self._failed is not None:
            what, _, detail = self._failed.partition(" ")
            if what == "module":
                raise ModuleLoadError(detail, self._texts)
            raise ConsoleError(f"the guest could not mount {detail or what}", *_last_words(folder))
        console, qemu = _last_words(folder)
        if trouble := _trouble(folder / _CONSOLE):
            raise GuestPanicError("the guest's kernel panicked", trouble, qemu)
        if qemu_status == 0 and self._ready_at is not None:
            raise GuestEndedError("the guest shut down before its command ended", console, qemu)
        raise GuestEndedError(f"QEMU {_how(qemu_status)} before the command did", console, qemu)


def _named_in_utf8(sockets: Sequence[Path], stack: contextlib.ExitStack) -> Iterator[Path]:
    """The sockets, under other names where QEMU, whose device options are JSON, cannot be told the one they have."""
    for number, path in enumerate(sockets):
        if is_utf8(path):
            yield path
            continue
        name = f"{number}{SOCKET_SUFFIX}"
        link = stack.enter_context(Kept("ihsm-guest-", socket_name=name)).folder / name
        link.symlink_to(path.absolute())
        yield link


def _how(status: int) -> str:
    """How a process ended, by its exit status, or by the signal -`status`."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _carry_out(end: socket.socket, sink: BinaryIO, mark: bytes, lost: list[OSError]) -> None:
    held, complete = b"", False
    while not complete:
        data = end.recv(_CHUNK)
        held += data
        passed, complete = held.find(mark), True
        if passed < 0:
            passed, complete = len(held) - (_overlap(held, mark) if data else 0), not data
        try:
            sink.write(held[:passed])
            sink.flush()
        except BrokenPipeError:
            pass  # a sink that was closed early (a pager, head) must not stop the guest
        except OSError as error:
            lost.append(error)  # nor must one that is full, but somebody shall know
        held = held[passed:]


def _overlap(data: bytes, mark: bytes) -> int:
    """Length of the longest proper beginning of `mark` that `data` ends with."""
    start = data.rfind(mark[:1], -len(mark) + 1)
    return len(data) - start if start >= 0 and mark.startswith(data[start:]) else 0


def _carry_in(end: socket.socket, source: BinaryIO | None, listening: threading.Event) -> None:
    # QEMU drops what a port was sent if the other end closes before the guest has opened it.
    listening.wait()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while source is not None:
            # The guest's end becomes readable when QEMU goes.
            ready, _, _ = select.select([source.fileno(), end.fileno()], [], [])
            if end.fileno() in ready:
                return
            try:
                data = os.read(source.fileno(), _CHUNK)
            except OSError:
                data = b""  # a folder, a terminal that is gone: as an empty one
            if not data:
                break
            end.sendall(data)
        # Closing the socket would make QEMU drop what the guest has not read yet; this is an end after the data.
        end.shutdown(socket.SHUT_WR)


def _lines(file: Path) -> list[str]:
    text = file.read_text(errors="replace") if file.exists() else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _last_words(folder: Path) -> tuple[list[str], list[str]]:
    """The last lines of the guest's console, and those of QEMU."""
    return _lines(folder / _CONSOLE)[-CONSOLE_LINES:], _lines(folder / _QEMU_LOG)[-QEMU_LINES:]


def _trouble(console: Path) -> list[str]:
    """The lines of a panic, from the first sign of trouble to the panic's own line and what follows; [] without one."""
    lines = _lines(console)
    panics = [index for index, line in enumerate(lines) if _PANIC in line]
    if not panics:
        return []
    first = next(index for index, line in enumerate(lines) if any(sign in line for sign in _TROUBLE))
    head, rest = lines[first : first + CONSOLE_LINES], lines[max(panics[0], first + CONSOLE_LINES) :]
    return [*head, *rest[:CONSOLE_LINES]]
