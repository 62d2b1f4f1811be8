# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a device can be told to do wrong: each action, the point where it acts, and what can be said of it.

`ACTIONS` declares each action once: what can be matched at its point, when it can be taken, its parameters with their
limits. A fault, which is an action for certain events at certain times, is `ihsm_abi.faults`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from ihsm_abi.pci import MSIX_VECTORS

MAX_MS: Final = 3_600_000
"""Longest time of a fault: an hour."""
MAX_COUNT: Final = 1_000_000_000
"""Largest number of events."""


class FaultPoint(StrEnum):
    """Where in the device an action is taken: each event that passes there is compared with the faults' matches."""

    FETCH = "fetch"
    """A command has been read from a ring and is not yet carried out."""
    COMPLETION = "completion"
    """A command has been carried out and is about to be answered."""
    INTERRUPT = "interrupt"
    """A vector is about to be raised."""
    REGISTER = "register"
    """A register of BAR0 is read."""
    ENABLE = "enable"
    """CC.EN has become 1, with admin queues that can be."""
    DISABLE = "disable"
    """CC.EN of a ready controller has become 0."""
    SUBSYSTEM_RESET = "subsystem-reset"
    """NSSR of a ready controller has been written."""
    FEATURES = "features"
    """SET or GET FEATURES is about to tell a number of queues."""
    TIME = "time"
    """The fault is added, or its `after_ms` have passed."""


class FaultAction(StrEnum):
    """What the device does wrong; `ACTIONS` says what each is."""

    DROP_COMPLETION = "drop-completion"
    DELAY_COMPLETION = "delay-completion"
    DUPLICATE_COMPLETION = "duplicate-completion"
    WRONG_CID = "wrong-cid"
    WRONG_PHASE = "wrong-phase"
    WRONG_SQHD = "wrong-sqhd"
    WRONG_STATUS = "wrong-status"
    HOLD_COMMAND = "hold-command"
    FAIL_DMA = "fail-dma"
    RESET_FUNCTION = "reset-function"
    LOSE_INTERRUPT = "lose-interrupt"
    DELAY_INTERRUPT = "delay-interrupt"
    SPURIOUS_INTERRUPT = "spurious-interrupt"
    SET_CFS = "set-cfs"
    NEVER_READY = "never-ready"
    LATE_READY = "late-ready"
    NEVER_DISABLED = "never-disabled"
    NEVER_RESET = "never-reset"
    ALL_ONES = "all-ones"
    GRANT_QUEUES = "grant-queues"


class DmaPart(StrEnum):
    """What `fail-dma` puts out of reach."""

    ENTRY = "entry"
    """The queue entry: the ring stops, and of the admin queue CSTS.CFS tells it."""
    SOURCE = "source"
    """The data a command reads."""
    DESTINATION = "destination"
    """The data a command writes."""
    LIST = "list"
    """The list of addresses (SGL) of an AES command's source."""


class FaultError(ValueError):
    """A fault that cannot be; `field` names what is wrong in it, as `when.nth`."""

    def __init__(self, field_name: str, reason: str) -> None:
        """`field_name` with the names of the objects around it, `reason` as the rest of a sentence."""
        super().__init__(f"{field_name}: {reason}")
        self.field = field_name
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an action: an integer within limits, or one of `choices`."""

    name: str
    meaning: str
    minimum: int = 0
    maximum: int = 0
    choices: tuple[str, ...] = ()
    required: bool = True

    def check(self, value: object) -> int | str:
        """The value; raises FaultError if it is none of the parameter's."""
        name = f"parameters.{self.name}"
        if not self.choices:
            return check_integer(name, value, self.minimum, self.maximum)
        if not isinstance(value, str) or value not in self.choices:
            raise FaultError(name, f"{value!r} is none of {', '.join(self.choices)}")
        return str(value)


_MS: Final = Parameter("ms", "how much later, in milliseconds", 1, MAX_MS)
_COMMAND: Final = ("queue", "opcode", "operation", "session")
_COUNTED: Final = ("nth", "count", "after_ms", "for_ms")


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """Declaration of an action."""

    action: FaultAction
    point: FaultPoint
    meaning: str
    """One line."""
    spec: str
    """Section of the specification that a driver's reaction is in."""
    matches: tuple[str, ...] = ()
    """Fields of `Match` that can be given."""
    whens: tuple[str, ...] = _COUNTED
    """Fields of `When` that can be given."""
    parameters: tuple[Parameter, ...] = ()
    any_parameter: bool = False
    """At least one of the parameters must be given, though none is required by itself."""

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def _specs() -> tuple[ActionSpec, ...]:
    A, P = FaultAction, FaultPoint
    return (
        ActionSpec(
            A.DROP_COMPLETION,
            P.COMPLETION,
            "the command is done and never answered, but counts as answered: deleting its queue waits for nothing",
            "01 §8.1",
            _COMMAND,
        ),
        ActionSpec(
            A.DELAY_COMPLETION,
            P.COMPLETION,
            "the command is done and answered later, if its queue is still there; until then it counts as outstanding",
            "01 §8.1",
            _COMMAND,
            parameters=(_MS,),
        ),
        ActionSpec(
            A.DUPLICATE_COMPLETION,
            P.COMPLETION,
            "the command is answered twice, where the completion queue has room for it",
            "01 §5.1",
            _COMMAND,
        ),
        ActionSpec(
            A.WRONG_CID,
            P.COMPLETION,
            "the answer carries another command id",
            "01 §5.1",
            _COMMAND,
            parameters=(Parameter("cid", "the command id told", 0, 0xFFFF),),
        ),
        ActionSpec(
            A.WRONG_PHASE,
            P.COMPLETION,
            "the answer is written with its phase bit inverted: it seems not to be there",
            "01 §5.1",
            _COMMAND,
        ),
        ActionSpec(
            A.WRONG_SQHD,
            P.COMPLETION,
            "the answer carries another head of the submission queue",
            "01 §5.1",
            _COMMAND,
            parameters=(Parameter("sqhd", "the head told", 0, 0xFFFF),),
        ),
        ActionSpec(
            A.WRONG_STATUS,
            P.COMPLETION,
            "the command is done and its answer carries another status",
            "01 §6, §14.3",
            _COMMAND,
            parameters=(
                Parameter("status", "bits 15:1 of the answer's last word", 0, 0x7FFF),
                Parameter("err", "error word of an AES answer", 0, 0xFFFF, required=False),
            ),
        ),
        ActionSpec(
            A.HOLD_COMMAND,
            P.FETCH,
            "the command is not carried out before the fault ends; deleting its queue waits for it, disabling drops it",
            "01 §8.2",
            _COMMAND,
        ),
        ActionSpec(
            A.FAIL_DMA,
            P.FETCH,
            "a part of the command lies in memory out of reach",
            "01 §14.4",
            _COMMAND,
            parameters=(Parameter("part", "what is out of reach", choices=tuple(DmaPart)),),
        ),
        ActionSpec(
            A.RESET_FUNCTION,
            P.FETCH,
            "the function is reset in mid-command, as by a function level reset; the command is never answered",
            "01 §8.6",
            _COMMAND,
        ),
        ActionSpec(
            A.LOSE_INTERRUPT,
            P.INTERRUPT,
            "the vector is not raised",
            "01 §5.2",
            ("vector",),
        ),
        ActionSpec(
            A.DELAY_INTERRUPT,
            P.INTERRUPT,
            "the vector is raised later, if a completion queue still uses it",
            "01 §5.2",
            ("vector",),
            parameters=(_MS,),
        ),
        ActionSpec(
            A.SPURIOUS_INTERRUPT,
            P.TIME,
            "a vector is raised once, for no completion",
            "01 §5.2",
            whens=("after_ms",),
            parameters=(Parameter("vector", "the vector raised", 0, MSIX_VECTORS - 1),),
        ),
        ActionSpec(
            A.SET_CFS,
            P.REGISTER,
            "a read of CSTS of a ready controller finds CFS set; it stays set until disable, NSSR or reset",
            "01 §8.4",
        ),
        ActionSpec(
            A.NEVER_READY,
            P.ENABLE,
            "the controller does not become ready before the fault ends",
            "01 §4.1",
        ),
        ActionSpec(
            A.LATE_READY,
            P.ENABLE,
            "the controller becomes ready later: after so many reads of CSTS, or so much time, whichever is last",
            "01 §4.1",
            parameters=(
                Parameter("reads", "reads of CSTS that find RDY 0", 1, MAX_COUNT, required=False),
                Parameter("ms", "how much later, in milliseconds", 1, MAX_MS, required=False),
            ),
            any_parameter=True,
        ),
        ActionSpec(
            A.NEVER_DISABLED,
            P.DISABLE,
            "the queues end, but RDY stays 1 until the fault ends or CC.EN is cleared once more",
            "01 §4.2",
        ),
        ActionSpec(
            A.NEVER_RESET,
            P.SUBSYSTEM_RESET,
            "the queues end, but RDY stays 1 until the fault ends, CC.EN is cleared or NSSR written once more",
            "01 §4.5",
        ),
        ActionSpec(
            A.ALL_ONES,
            P.REGISTER,
            "reads of registers give ones and writes do nothing, nor doorbells, as if the device had gone; "
            "after `count` reads it is back",
            "01 §2.2",
            ("register",),
        ),
        ActionSpec(
            A.GRANT_QUEUES,
            P.FEATURES,
            "other numbers of queues are granted than there are; 0 is told as 0xFFFF in both halves: none",
            "01 §6.5",
            ("opcode",),
            parameters=(
                Parameter("hsm", "HSM queue pairs granted", 0, 0xFFFF, required=False),
                Parameter("aes", "AES queue pairs granted", 0, 0xFFFF, required=False),
            ),
            any_parameter=True,
        ),
    )


ACTIONS: Final[Mapping[FaultAction, ActionSpec]] = MappingProxyType({spec.action: spec for spec in _specs()})
"""Every action's declaration."""


def check_integer(name: str, value: object, minimum: int, maximum: int) -> int:
    """The value; raises FaultError, which calls it `name`, if it is no integer within the limits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FaultError(name, f"{value!r} is no integer")
    if not minimum <= value <= maximum:
        raise FaultError(name, f"{value} is outside {minimum} to {maximum}")
    return int(value)
