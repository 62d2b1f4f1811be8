# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a guest's start and its command's exit status."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

from ihsm.errors import IhsmError


class GuestError(IhsmError):
    """The guest could not be started, or ended before its command did."""

    exit_code: ClassVar[int] = 125
    """Apart from what commands themselves return, as env(1) and timeout(1) do it."""


@contextlib.contextmanager
def system_errors() -> Iterator[None]:
    """What the system refuses on the way to a running guest is a GuestError; errors of the command's output are not."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename!r}: " if error.filename is not None else ""
        raise GuestError(f"{what}{error.strerror or error}") from error


class ToolchainError(GuestError):
    """A part that guests need is missing or unfit; the message says how to get it."""


class QemuNotFoundError(ToolchainError):
    """No QEMU with vfio-user-pci."""


class KernelNotFoundError(ToolchainError):
    """No guest kernel, or not the modules a guest needs."""


class ModuleBuildError(GuestError):
    """A module's source does not build against the guest kernel's headers."""

    def __init__(self, folder: str, lines: Sequence[str]) -> None:
        """`lines`: the end of make's output."""
        super().__init__(
            "\n".join([f"{folder}: the module does not build; the last lines of make:", *_indented(lines)])
        )
        self.lines = tuple(lines)


class ModuleLoadError(GuestError):
    """A module does not load in the guest."""

    def __init__(self, module: str, lines: Sequence[str]) -> None:
        """`lines`: what insmod and the guest's kernel log say."""
        super().__init__("\n".join([f"{module}: does not load in the guest:", *_indented(lines)]))
        self.lines = tuple(lines)


class ModuleUnloadError(GuestError):
    """A module does not unload in a kept guest, so that the next run cannot load the new one."""

    def __init__(self, module: str, lines: Sequence[str]) -> None:
        """`lines`: what rmmod says."""
        super().__init__("\n".join([f"{module}: does not unload in the kept guest:", *_indented(lines)]))
        self.lines = tuple(lines)


class ConsoleError(GuestError):
    """A failure that QEMU's own words and the end of the guest's console explain."""

    def __init__(
        self,
        what: str,
        console: Sequence[str],
        qemu: Sequence[str] = (),
        output: Sequence[str] = (),
        blocked: Sequence[str] = (),
    ) -> None:
        """All of them lines.

        Args:
            what: what went wrong.
            console: the last of the guest's console.
            qemu: the last of what QEMU itself printed.
            output: the last of what the command wrote.
            blocked: the kernel's list of tasks that wait for something and cannot be interrupted.
        """
        parts = [
            what,
            *_part("the last lines of the command:", output),
            *_part("tasks that are blocked:", blocked),
            *_part("the last lines of QEMU:", qemu),
            *(_part("the last lines of its console:", console) or ["its console is empty"]),
        ]
        super().__init__("\n".join(parts))
        self.console, self.qemu, self.output, self.blocked = map(tuple, (console, qemu, output, blocked))


class GuestPanicError(ConsoleError):
    """The guest's kernel panicked."""


class GuestTimeoutError(ConsoleError):
    """The guest gave no sign of life, or took longer than its time limit."""

    exit_code: ClassVar[int] = 124


class GuestEndedError(ConsoleError):
    """QEMU ended although the command had not."""


def _part(heading: str, lines: Sequence[str]) -> list[str]:
    return [heading, *_indented(lines)] if lines else []


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  | {line}" for line in lines]
