# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Drivers under test: what a machine that has one must be able to do, and how one is found.

A driver comes by an entry point of the group `ihsm.drivers_under_test`, a class that is made with `DriverOptions`. It
is a `GuestDriver`, whose machines run programs by themselves, or a `LocalDriver`, whose machines have system calls for
this process: threads of ours are its programs, and its clock is ours to move (`local`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, runtime_checkable

from ihsm.conformance.calls import CallResult
from ihsm.conformance.scenario import Act, Op, Program
from ihsm.errors import ArgumentError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

GROUP: Final = "ihsm.drivers_under_test"


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """What a driver is told of the run."""

    module: Path | None = None
    """The driver's `.ko`, for one that has a file."""
    exercise: Path | None = None
    """A program to use the driver with instead of ours."""


class Running(Protocol):
    """A program or an act that was started."""

    def results(self) -> Sequence[CallResult] | None:
        """How its calls ended, None while one has not."""

    def kill(self, number: int) -> bool:
        """Send all its processes a signal; False where this machine has no such signals."""

    def ended(self) -> int:
        """How many of its calls have ended."""


class Rig(Protocol):
    """A machine that has the driver and one function, and the function's device."""

    socket_path: Path
    """Of the device, at which faults are set and the trace is to be had."""

    def start(self, what: Program | Act) -> Running:
        """Begin something."""

    def offers(self, op: Op) -> bool:
        """Whether programs here can do that at all; what the driver says to it is another matter."""

    def begins(self, sleep_limit_s: float) -> None:
        """A scenario in which a task that sleeps for longer, uninterruptibly, is one that hangs."""

    def pass_time(self, settle_s: float | None) -> None:
        """A little time passes.

        `settle_s` is how long (real seconds) the device may take for what it does because of a fault that has been
        hit; None where none has, so that every command will have its answer.
        """

    def now_s(self) -> float:
        """The driver's time."""

    def log(self) -> Sequence[str]:
        """Lines of the kernel's log since the last call."""

    def resources(self) -> Mapping[str, int]:
        """What the kernel has given away, by kind: it must not grow from bind to bind."""

    def crashed(self) -> str:
        """What the machine has ended of; "" while it has not."""

    def close(self) -> None:
        """End all of it."""


@runtime_checkable
class GuestDriver(Protocol):
    """A driver whose machines run programs by themselves."""

    parallel: int
    """How many machines may run at a time."""
    variants: Sequence[Mapping[str, Any]]
    """Kinds of machines that the full run has, the usual one first."""

    def properties(self) -> Mapping[str, str]:
        """What the report says of it: kernel, hash."""

    def names(self) -> Sequence[str]:
        """By which the kernel's log calls it."""

    def rig(self, variant: Mapping[str, Any], socket_path: Path) -> Rig:
        """Boot a machine that has the device.

        Raises:
            IhsmError: it does not come up, and that is not the driver's fault.
        """


class LocalProcess(Protocol):
    """A process of a machine in this one; errors are `OSError`."""

    def open(self, path: str) -> int:
        """Path to descriptor."""

    def ioctl(self, fd: int, number: int, argument: WriteableBuffer) -> int:
        """As `fcntl.ioctl`."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""

    def kill(self) -> None:
        """End it, as by SIGKILL."""


class LocalMachine(Protocol):
    """A machine in this process."""

    @property
    def nodes(self) -> Sequence[str]:
        """Nodes of the driver that are there now."""

    def process(self) -> LocalProcess:
        """A new program."""

    def act(self, act: str) -> None:
        """Carry out an `Act`; `OSError` where it fails."""

    def is_idle(self) -> bool:
        """Whether nothing runs."""

    def polls(self) -> int:
        """How often in a row the driver has read a register, since it last did anything else or time passed."""

    def now_s(self) -> float:
        """Its time."""

    def timers(self) -> Sequence[float]:
        """In how many seconds something is due."""

    def advance(self, seconds: float) -> None:
        """Move its time on."""

    def log_lines(self) -> Sequence[str]:
        """All of the kernel's log."""

    def resources(self) -> Mapping[str, int]:
        """As of a `Rig`."""

    def crashed(self) -> str:
        """As of a `Rig`."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""


@runtime_checkable
class LocalDriver(Protocol):
    """A driver whose machines have system calls for this process."""

    variants: Sequence[Mapping[str, Any]]
    """As of a `GuestDriver`."""

    def properties(self) -> Mapping[str, str]:
        """As of a `GuestDriver`."""

    def names(self) -> Sequence[str]:
        """As of a `GuestDriver`."""

    def machine(self, variant: Mapping[str, Any], socket_path: Path) -> LocalMachine:
        """Boot one that has the device.

        Raises:
            IhsmError: it does not come up.
        """


Driver = GuestDriver | LocalDriver


def driver_names() -> list[str]:
    """Of all that are installed."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load_driver(name: str, options: DriverOptions) -> Driver:
    """A driver by its name.

    Raises:
        ArgumentError: there is none.
    """
    for entry in entry_points(group=GROUP, name=name):
        driver: Driver = entry.load()(options)
        return driver
    raise ArgumentError("conformance", "driver", f"{name!r} is none of {', '.join(driver_names())}")
