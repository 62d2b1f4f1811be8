# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a scenario is: data that says what programs, administrator and device do, and what a driver makes of it.

A scenario is performed by `perform`, on whatever machine has the driver. It names no bug: it says how calls may end
and how much help the driver may need to work again; what a driver does wrong on the way, the witnesses name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

from ihsm_abi.faults import Fault

LIMIT_S: Final = 120.0
"""Seconds of the driver's time in which every call ends: an unanswered DELETE_SQ takes 37, a bring-up in vain 11."""


class Op(StrEnum):
    """What a program does with the node, again and again."""

    INFORMATION = "information"
    """The device information ioctl."""
    COMMAND = "command"
    """The session ioctl with a message that needs no session; the answer is decoded."""
    AES = "aes"
    """A session, a key, AES-GCM there and back; the texts are compared."""
    RESET = "reset"
    """The reset ioctl: disable and bring-up."""
    SUBSYSTEM_RESET = "subsystem-reset"
    """The reset ioctl: NSSR and bring-up."""


class Act(StrEnum):
    """What an administrator does with the function."""

    BIND = "bind"
    UNBIND = "unbind"
    RESET = "function-reset"
    REMOVE = "remove"
    """The function goes, after its driver has let go of it. That it goes before, devices do (`FaultAction`)."""
    RETURN = "return"
    """It comes back, and is probed."""
    SHUTDOWN = "shutdown"
    """The machine goes down: drivers are told."""


class Ends(StrEnum):
    """How the calls of a program, or an act, may end. A wrong answer is never right, nor is one that does not come."""

    WELL = "well"
    """All succeed."""
    TOLD = "told"
    """At least one fails: the device has not done what was asked for."""
    ANYHOW = "anyhow"
    """Each succeeds or fails."""
    GARBLED = "garbled"
    """The same, and what they bring may be anything: the device has answered so."""


class Recovery(IntEnum):
    """What it may take until the driver works again once the device does, least first."""

    ITSELF = 0
    """Nothing: the next command succeeds, or one soon after."""
    REBIND = 1
    """Unbind and bind."""
    NONE = 2
    """It is not asked: the machine is down."""


@dataclass(frozen=True, slots=True)
class Program:
    """Processes that open the node and call it."""

    op: Op
    count: int = 1
    """Calls of each thread."""
    threads: int = 1
    """Of each process; they share its open file."""
    processes: int = 1

    @property
    def calls(self) -> int:
        """Of all threads together."""
        return self.count * self.threads * self.processes

    def __str__(self) -> str:
        """For people."""
        parts = [f"{self.count} × {self.op}"]
        parts += [f"{self.threads} threads"] * (self.threads > 1) + [f"{self.processes} processes"] * (
            self.processes > 1
        )
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Run:
    """A program is run to its end, or an act is carried out."""

    what: Program | Act
    ends: Ends = Ends.WELL


@dataclass(frozen=True, slots=True)
class Start:
    """The same begins, and has a name."""

    name: str
    what: Program | Act


@dataclass(frozen=True, slots=True)
class Finish:
    """What was started is waited for."""

    name: str
    ends: Ends


@dataclass(frozen=True, slots=True)
class Kill:
    """A signal for all processes of a program that was started."""

    name: str
    signal: int


@dataclass(frozen=True, slots=True)
class Inject:
    """The device does something wrong from now on."""

    fault: Fault
    among: int = 0
    """Which of so many matching events is the first that is hit is drawn, by the seed; 0 if the fault says it."""


@dataclass(frozen=True, slots=True)
class AwaitHit:
    """Wait until the fault that was injected last has been hit."""

    hits: int = 1


@dataclass(frozen=True, slots=True)
class Clear:
    """The device does nothing wrong any more."""


@dataclass(frozen=True, slots=True)
class Elapse:
    """So many seconds of the driver's time pass."""

    seconds: float


Step = Run | Start | Finish | Kill | Inject | AwaitHit | Clear | Elapse


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario."""

    name: str
    """`group/what`."""
    about: str
    """One line."""
    section: str
    """Of the specification: what a driver does."""
    steps: tuple[Step, ...]
    recovery: Recovery = Recovery.ITSELF
    limit_s: float = LIMIT_S
    is_quick: bool = True
    """Whether `--quick` has it."""
    spoils: bool = False
    """The driver may not be healthy afterwards, however right it is: nothing else is tried on the same machine."""
    tolerates: Mapping[str, str] = field(default_factory=dict)
    """Rules of the trace that a right driver breaks here, each with the reason why it cannot but do so."""
    needs: frozenset[Op] = field(default_factory=lambda: frozenset({Op.COMMAND}))
    """What the driver must offer."""

    from_start: tuple[Fault, ...] = ()
    """What is wrong with the device from its start: the scenario has a machine for itself."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All that the device does wrong."""
        return self.from_start + tuple(step.fault for step in self.steps if isinstance(step, Inject))
