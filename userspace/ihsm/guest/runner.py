# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's life: QEMU started, streams of commands carried, their exit statuses or the reason there is none."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ihsm.closing import Closing
from ihsm.errors import OutputError
from ihsm.guest import accel, images, initramfs
from ihsm.guest.errors import (
    ConsoleError,
    GuestEndedError,
    GuestPanicError,
    GuestTimeoutError,
    ModuleLoadError,
    ModuleUnloadError,
)
from ihsm.guest.freshness import Freshness
from ihsm.guest.initramfs import Boot, GuestCommand, GuestModule, Mode
from ihsm.guest.kernel import GuestKernel, find_kernel
from ihsm.guest.kernel_log import Complaint, Kind, find_complaints, parse_dmesg, parse_kmemleak, taint_complaints
from ihsm.guest.log_port import LogPort
from ihsm.guest.machine import Accelerator, Channel, Iommu, MachineConfig
from ihsm.guest.sections import Loaded, Sections
from ihsm.guest.streams import Streams, Tail, carry_in, carry_out
from ihsm.guest.terminal import follow_size, terminal_size
from ihsm.guest.toolchain import Qemu, find_qemu
from ihsm.kept import Kept
from ihsm_abi.sockets import SOCKET_SUFFIX, is_utf8

CONSOLE_LINES = 30
QEMU_LINES = 15
OUTPUT_LINES = 15
BLOCKED_LINES = 60
_PANIC = "Kernel panic"
_TROUBLE = ("BUG:", "Oops", "general protection fault", _PANIC)
_CHUNK = 1 << 16
_CHECK_INTERVAL_S = 0.5
_QUIT_LIMIT_S = 20.0
_LOG_LIMIT_S = 20.0
"""How long the log may take to tell what was logged before: it comes over a port of its own."""
_BLOCKED_LIMIT_S = 10.0
_QEMU_LOG = "qemu.log"
_CONSOLE = "console"
_RUNS = "runs"
_CHANNELS = {
    Mode.INTERACTIVE: ("control", "log"),
    Mode.KEPT: ("control", "log", "stdout", "stderr"),
    Mode.EXEC: ("control", "log", "stdin", "stdout", "stderr"),
}


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
    images: bool = True
    """Whether the guest has images of its Python environment, or every file over 9p."""
    boot_limit_s: float | None = 180.0
    command_limit_s: float | None = 600.0
    silence_limit_s: float = 60.0
    """A ready guest that reports no sign of life for this long is taken for hung; it reports every two seconds."""


class Guest:
    """One run of one guest."""

    def __init__(
        self,
        config: GuestConfig,
        command: GuestCommand,
        progress: Callable[[str], None] = lambda text: None,
        loaded: Callable[[Loaded], None] = lambda loaded: None,
    ) -> None:
        """`progress` and `loaded` as of a RunningGuest."""
        self.config = config
        self.command = command
        self.complaints: list[Complaint] = []
        """What the guest's kernel complained of, from the loading of the modules to the end of the command."""
        self._progress = progress
        self._loaded = loaded

    def run(self, streams: Streams | None) -> int:
        """Boot, run the command, return its exit status; `streams` None gives the guest our terminal.

        Raises GuestError or one of its kind: ModuleLoadError, GuestPanicError, GuestTimeoutError, GuestEndedError.
        """
        mode = Mode.EXEC if streams else Mode.INTERACTIVE
        with RunningGuest(self.config, self.command, mode, self._progress, self._loaded) as guest:
            try:
                return guest.first(streams)
            finally:
                self.complaints = guest.complaints()


class _Run:
    """What is known of one run of a command."""

    def __init__(self, number: int, modules: Sequence[GuestModule]) -> None:
        self.name = str(number) if number else "ihsm"
        self.modules = modules
        self.began_at = time.monotonic()
        self.ready_at: float | None = None
        self.status: int | None = None
        self.failed: str | None = None
        self.examined = False
        self.texts: list[str] = []
        self.leaks: list[str] = []
        self.taints: list[int] = []
        self.tail = Tail()


class RunningGuest(Closing):
    """A guest that was started and lives until it is closed, or ends by itself.

    After the first run, a guest in the mode KEPT takes further ones. One thread uses it.
    """

    def __init__(
        self,
        config: GuestConfig,
        command: GuestCommand,
        mode: Mode,
        progress: Callable[[str], None] = lambda text: None,
        loaded: Callable[[Loaded], None] = lambda loaded: None,
    ) -> None:
        """Start QEMU; `command` is what the first run will do.

        `progress` is told, a line at a time, what is going on, `loaded` where the modules under test lie in memory
        whenever they were loaded into a guest that has a debugger.

        Raises GuestError, OSError.
        """
        self.config = config
        self._mode = mode
        self._progress = progress
        self._loaded = loaded
        self._run = _Run(0, config.modules)
        self._runs = 0
        self._alive = True
        # Ends stdout and stderr: ports have no end of their own that the host could see.
        self._end = b"\0ihsm-end-" + secrets.token_hex(16).encode() + b"\n"
        self._partial = b""
        self._listening = threading.Event()
        self._last_sign = time.monotonic()
        self._lost: list[OSError] = []
        self._feed: threading.Thread | None = None
        self._outputs: list[threading.Thread] = []
        self._ours: dict[str, socket.socket] = {}
        self._sections = Sections()
        self._images = Freshness([])
        accelerator = accel.choose(config.accelerator, config.qemu, config.kernel)
        version = config.qemu.version_text
        progress(f"guest: booting Linux {config.kernel.release} in QEMU {version} ({accelerator})")
        with contextlib.ExitStack() as stack:
            self._start(stack, accelerator, command)
            self._closing = stack.pop_all()

    def _start(self, stack: contextlib.ExitStack, accelerator: Accelerator, command: GuestCommand) -> None:
        theirs: dict[str, socket.socket] = {}
        for channel in _CHANNELS[self._mode]:
            self._ours[channel], theirs[channel] = map(stack.enter_context, socket.socketpair())
        terminal = self._mode is Mode.INTERACTIVE
        descriptors = [end.fileno() for end in theirs.values()]
        self._qemu = stack.enter_context(Kept("ihsm-guest-", descriptors, terminal=terminal))
        self._folder = self._qemu.folder
        if self._shares_runs:
            (self._folder / _RUNS).mkdir()
        sockets = tuple(_named_in_utf8(self.config.sockets, stack))
        machine = self._machine(accelerator, command, theirs, sockets)
        logged = (2,) if terminal else (1, 2)
        self._log = LogPort(self._ours["log"])
        stack.callback(self._end_qemu)
        self._qemu.start([self.config.qemu.program, *machine.arguments()], logged=logged, log=_QEMU_LOG)
        for end in theirs.values():
            end.close()

    def _machine(
        self,
        accelerator: Accelerator,
        command: GuestCommand,
        ends: dict[str, socket.socket],
        sockets: tuple[Path, ...],
    ) -> MachineConfig:
        config = self.config
        archive = self._folder / "initramfs"
        modules = images.boot_modules(config.kernel) if config.images else None
        if modules is not None:
            self._images = Freshness(images.provide(self._progress), config.shares)
        boot = Boot(self._mode, self._end, config.shares, config.gdb_port is not None, modules or (), terminal_size())
        archive.write_bytes(initramfs.build(config.kernel, command, config.modules, boot))
        return MachineConfig(
            kernel=config.kernel.bootable(),
            initramfs=archive,
            console=self._folder / _CONSOLE,
            accelerator=accelerator,
            iommu=config.iommu,
            memory=config.memory,
            cpus=config.cpus,
            sockets=sockets,
            shares=config.shares,
            runs=self._folder / _RUNS if self._shares_runs else None,
            disks=self._images.disks,
            channels=tuple(Channel(f"ihsm.{name}", end.fileno()) for name, end in ends.items()),
            terminal=self._mode is Mode.INTERACTIVE,
            gdb_port=config.gdb_port,
            extra=config.extra,
            kernel_arguments=f"{config.kernel.arguments} {config.kernel_arguments}".strip(),
        )

    @property
    def _shares_runs(self) -> bool:
        """Whether it has a folder in common with us, for what further runs need, or a debugger."""
        return self._mode is Mode.KEPT or self.config.gdb_port is not None

    @property
    def alive(self) -> bool:
        """Whether it takes a further run: it is kept, and every run before has ended by itself."""
        return self._alive and self._mode is Mode.KEPT

    def first(self, streams: Streams | None) -> int:
        """Wait for the boot and the end of the first command; its exit status. Errors as `Guest.run`."""
        with contextlib.ExitStack() as stack:
            if self._mode is Mode.INTERACTIVE:
                stack.enter_context(follow_size(self._tell))
            elif streams and "stdin" in self._ours:
                source = streams.stdin
                self._feed = threading.Thread(
                    target=carry_in, args=(self._ours["stdin"], source, self._listening), daemon=True
                )
                self._feed.start()
            return self._perform(streams)

    def again(self, command: GuestCommand, modules: Sequence[GuestModule], streams: Streams) -> int:
        """Load the modules anew and run a command; its exit status. Errors as `Guest.run`, and ModuleUnloadError."""
        self._runs += 1
        self._run = _Run(self._runs, modules)
        folder = self._folder / _RUNS / self._run.name
        for name, data in initramfs.run_files(command, modules).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        self._last_sign = time.monotonic()
        self._freshen(self._images.look())
        self._tell(f"run {self._run.name}")
        return self._perform(streams)

    def _freshen(self, paths: Sequence[str]) -> None:
        """Have the guest take files as they are on the host now, in place of those in its images."""
        for path in paths:
            self._tell(f"fresh {path}")

    def _tell(self, line: str) -> None:
        """Ask init for something; it is not there any more if its end is closed."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._ours["control"].sendall(os.fsencode(f"{line}\n"))

    def _perform(self, streams: Streams | None) -> int:
        run = self._run
        if streams:
            self._outputs = [
                threading.Thread(
                    target=carry_out, args=(self._ours[name], sink, self._end, self._lost, run.tail.add), daemon=True
                )
                for name, sink in (("stdout", streams.stdout), ("stderr", streams.stderr))
            ]
            for carrier in self._outputs:
                carrier.start()
        try:
            self._attend(run)
            if run.status is not None:
                for carrier in self._outputs:
                    carrier.join(_QUIT_LIMIT_S)
                self._log.wait_for(f"end {run.name}", _LOG_LIMIT_S)
            else:
                self._alive = False
        except BaseException:
            self._alive = False
            raise
        if run.status is None and run.failed is None:
            self._qemu.wait(_QUIT_LIMIT_S)
        verdict = self._verdict(run)
        if self._lost:
            raise OutputError(f"output of the command: {self._lost[0].strerror}")
        return verdict

    def complaints(self) -> list[Complaint]:
        """What the kernel complained of in the latest run, up to now."""
        run = self._run
        tested = [module.kernel_name for module in run.modules if module.tested]
        found = find_complaints(self._log.since(f"begin {run.name}"), tested)
        # What a kernel said when it died may be on its console alone.
        titles = {complaint.title for complaint in found}
        dying = find_complaints(parse_dmesg("\n".join(_trouble(self._folder / _CONSOLE))), tested)
        found += [complaint for complaint in dying if complaint.title not in titles]
        leaks = parse_kmemleak("\n".join(run.leaks))
        if leaks:  # which say more than that there are some, and some are the kernel's own
            found = [complaint for complaint in found if complaint.kind is not Kind.LEAK]
        found += [leak for leak in leaks if leak.first_in(tested) or leak.in_gone_code]
        if len(run.taints) > 1:
            found += taint_complaints(run.taints[0], run.taints[-1])
        return found

    def kill(self) -> None:
        """End QEMU, from any thread; whoever waits for a run gets GuestEndedError."""
        self._alive = False
        self._qemu.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End the guest, whatever it does; harmless the second time."""
        self._alive = False
        self._closing.close()

    def _end_qemu(self) -> None:
        if self._run.status is not None:
            self._qemu.send_signal(signal.SIGTERM)
            self._qemu.wait(_QUIT_LIMIT_S)
        self._qemu.send_signal(signal.SIGKILL)
        self._qemu.wait()
        self._listening.set()
        for carrier in (*self._outputs, *([self._feed] if self._feed else [])):
            carrier.join()
        self._log.join()

    def _attend(self, run: _Run) -> None:
        """Listen to the guest until it has reported all of a run or is gone; enforce the time limits."""
        control = self._ours["control"]
        control.settimeout(_CHECK_INTERVAL_S)
        while not run.examined:
            try:
                data = control.recv(_CHUNK)
            except TimeoutError:
                data = None
            except ConnectionResetError:
                data = b""
            if data == b"":
                return
            if data:
                self._last_sign = time.monotonic()
                self._hear(data, run)
            if self._mode is not Mode.EXEC and run.ready_at is not None:
                self._freshen(self._images.look_if_due())
            self._check_limits(run)

    def _hear(self, data: bytes, run: _Run) -> None:
        """Take in lines of the guest's init, a word and what it is about."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "ready":
                run.ready_at = time.monotonic()
                self._listening.set()
                if self.config.gdb_port is not None:
                    kallsyms = self._folder / _RUNS / "kallsyms"
                    self._loaded(Loaded(self._sections.addresses, run.modules, kallsyms))
                self._progress(f"guest: ready after {run.ready_at - run.began_at:.1f} s")
            elif word == "text":
                run.texts.append(rest)
            elif word == "leak":
                run.leaks.append(rest)
            elif word == "taint" and rest.isdigit():
                run.taints.append(int(rest))
            elif word == "section":
                self._sections.hear(rest)
            elif word == "failed":
                run.failed = rest
                run.examined = not rest.startswith(("module ", "unload "))
            elif word == "exit" and rest.isdigit():
                run.status = int(rest)
            elif word == "examined":
                run.examined = True

    def _check_limits(self, run: _Run) -> None:
        """Raise GuestTimeoutError when a limit is exceeded."""
        if self.config.gdb_port is not None or run.status is not None:
            return
        now = time.monotonic()
        boot, command = self.config.boot_limit_s, self.config.command_limit_s
        if run.ready_at is None:
            if boot is not None and now - run.began_at > boot:
                raise GuestTimeoutError(f"the guest was not ready within {boot:.0f} s", *self._last_words())
        elif now - self._last_sign > self.config.silence_limit_s:
            silence = f"no sign of life for {self.config.silence_limit_s:.0f} s"
            raise self._timed_out(f"the guest hangs: {silence}", run, [])
        elif command is not None and now - run.ready_at > command:
            raise self._timed_out(f"the command did not end within {command:.0f} s", run, self._blocked())

    def _timed_out(self, what: str, run: _Run, blocked: list[str]) -> GuestTimeoutError:
        return GuestTimeoutError(what, *self._last_words(), run.tail.lines(OUTPUT_LINES), blocked)

    def _blocked(self) -> list[str]:
        """The kernel's list of blocked tasks; empty if it has none, or does not answer."""
        self._tell("blocked")
        if not self._log.wait_for("blocked", _BLOCKED_LIMIT_S):
            return []
        lines = [line.text for line in self._log.since(f"begin {self._run.name}")]
        begins = [index for index, text in enumerate(lines) if "sysrq: Show Blocked State" in text]
        return lines[begins[-1] + 1 :][:BLOCKED_LINES] if begins else []

    def _last_words(self) -> tuple[list[str], list[str]]:
        """The last lines of the guest's console, and those of QEMU."""
        return _lines(self._folder / _CONSOLE)[-CONSOLE_LINES:], _lines(self._folder / _QEMU_LOG)[-QEMU_LINES:]

    def _verdict(self, run: _Run) -> int:
        """The command's exit status, or the exception that says why there is none."""
        if run.failed is not None:
            what, _, detail = run.failed.partition(" ")
            if what == "module":
                raise ModuleLoadError(detail, run.texts)
            if what == "unload":
                raise ModuleUnloadError(detail, run.texts)
            raise ConsoleError(f"the guest could not mount {detail or what}", *self._last_words())
        if run.status is not None:
            return run.status
        # Closed here, for the end of QEMU is part of the answer.
        self._qemu.send_signal(signal.SIGKILL)
        qemu_status = self._qemu.wait()
        assert qemu_status is not None  # it was started
        console, qemu = self._last_words()
        if trouble := _trouble(self._folder / _CONSOLE):
            raise GuestPanicError("the guest's kernel panicked", trouble, qemu)
        if qemu_status == 0 and run.ready_at is not None:
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


def _lines(file: Path) -> list[str]:
    text = file.read_text(errors="replace") if file.exists() else ""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _trouble(console: Path) -> list[str]:
    """The lines of a panic, from the first sign of trouble to the panic's own line and what follows; [] without one."""
    lines = _lines(console)
    panics = [index for index, line in enumerate(lines) if _PANIC in line]
    if not panics:
        return []
    first = next(index for index, line in enumerate(lines) if any(sign in line for sign in _TROUBLE))
    head, rest = lines[first : first + CONSOLE_LINES], lines[max(panics[0], first + CONSOLE_LINES) :]
    return [*head, *rest[:CONSOLE_LINES]]
