# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What can be declared of something that a device does wrong: its action, the point where it acts, its parameters.

The declarations are `ihsm_abi.fault_table`. A fault, which is an action for certain events at certain times, is
`ihsm_abi.faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

MAX_MS: Final = 3_600_000
"""Longest time of a fault: an hour."""
MAX_COUNT: Final = 1_000_000_000
"""Largest number of events."""
MAX_SEED: Final = 0xFFFF_FFFF
"""Largest seed of what is left to chance."""
PER_MILLE: Final = 1000
"""`When.per_mille` with which every event that fits is hit."""


class FaultPoint(StrEnum):
    """Where in the device an action is taken: each event that passes there is compared with the faults' matches."""

    meaning: str
    """What happens there, in one line."""

    def __new__(cls, name: str, meaning: str) -> Self:
        """Declare a point."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.meaning = meaning
        return member

    FETCH = "fetch", "a command has been read from a ring and is not yet carried out"
    COMPLETION = "completion", "a command has been carried out and is about to be answered"
    RESPONSE = (
        "response",
        "the data that answer an admin or HSM command are about to be written into the client's memory",
    )
    RESOURCE = "resource", "something that the device has a limited number of is about to be taken"
    INTERRUPT = "interrupt", "a vector is about to be raised"
    REGISTER = "register", "a register of BAR0 is read"
    ENABLE = "enable", "CC.EN has become 1, with admin queues that can be"
    DISABLE = "disable", "CC.EN of a ready controller has become 0"
    SUBSYSTEM_RESET = "subsystem-reset", "NSSR of a ready controller has been written"
    FEATURES = "features", "SET or GET FEATURES is about to tell a number of queues"
    TIME = "time", "the fault is added, or its `after_ms` have passed"
    START = (
        "start",
        "the device begins: a client asks for it once, so that it cannot change later (`ihsm serve --faults`)",
    )


class FaultAction(StrEnum):
    """What the device does wrong; `fault_table.ACTIONS` says what each is."""

    DROP_COMPLETION = "drop-completion"
    DELAY_COMPLETION = "delay-completion"
    DUPLICATE_COMPLETION = "duplicate-completion"
    WRONG_CID = "wrong-cid"
    WRONG_PHASE = "wrong-phase"
    WRONG_SQHD = "wrong-sqhd"
    WRONG_STATUS = "wrong-status"
    REORDER_COMPLETIONS = "reorder-completions"
    CORRUPT_RESPONSE = "corrupt-response"
    CUT_RESPONSE = "cut-response"
    HOLD_COMMAND = "hold-command"
    FAIL_DMA = "fail-dma"
    RESET_FUNCTION = "reset-function"
    NEVER = "never"
    EXHAUST_RESOURCE = "exhaust-resource"
    LOSE_INTERRUPT = "lose-interrupt"
    DELAY_INTERRUPT = "delay-interrupt"
    SPURIOUS_INTERRUPT = "spurious-interrupt"
    STORM_INTERRUPT = "storm-interrupt"
    SET_CFS = "set-cfs"
    NEVER_READY = "never-ready"
    LATE_READY = "late-ready"
    NEVER_DISABLED = "never-disabled"
    NEVER_RESET = "never-reset"
    ALL_ONES = "all-ones"
    REMOVE_FUNCTION = "remove-function"
    PAUSE_PROCESS = "pause-process"
    GRANT_QUEUES = "grant-queues"
    WRONG_BAR_SIZE = "wrong-bar-size"
    WRONG_VECTORS = "wrong-vectors"
    WRONG_IDENTIFY = "wrong-identify"
    WRONG_CAP_TO = "wrong-cap-to"


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


class Resource(StrEnum):
    """What `exhaust-resource` leaves none of."""

    SESSIONS = "sessions"
    """Session ids: OpenSession is refused with VaultSessionLimitReached."""
    KEYS = "keys"
    """Room of the vault for keys of applications: refused with NotEnoughSpace."""
    BULK_KEYS = "bulk-keys"
    """Places for keys of the fast path: refused with ReachedMaxAesBulkKeys."""
    QUEUES = "queues"
    """Hardware queues: CREATE_CQ and CREATE_SQ are refused with InternalError."""
    REQUESTS = "requests"
    """Buffers for HSM commands: the completion has InternalError, and there is no response."""


class FaultError(ValueError):
    """A fault that cannot be; `field` names what is wrong in it, as `when.nth`."""

    def __init__(self, field_name: str, reason: str) -> None:
        """`field_name` with the names of the objects around it, `reason` as the rest of a sentence."""
        shown = field_name if field_name.isprintable() else ascii(field_name)  # names of members can be anything
        super().__init__(f"{shown}: {reason}")
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


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """Declaration of an action."""

    action: FaultAction
    point: FaultPoint
    meaning: str
    """What the device does, in one line."""
    driver: str
    """What a driver must do about it, in one line."""
    spec: str
    """Section of the specification that a driver's reaction is in."""
    matches: tuple[str, ...] = ()
    """Fields of `Match` that can be given."""
    whens: tuple[str, ...] = ()
    """Fields of `When` that can be given."""
    parameters: tuple[Parameter, ...] = ()
    any_parameter: bool = False
    """At least one of the parameters must be given, though none is required by itself."""
    check: Callable[[Mapping[str, int | str]], None] = lambda parameters: None
    """Raises FaultError for parameters that are right each by itself and not together."""

    @property
    def at_start_only(self) -> bool:
        """Whether a device can have it from its start alone, and no control socket takes it."""
        return self.point is FaultPoint.START

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def check_integer(name: str, value: object, minimum: int, maximum: int) -> int:
    """The value; raises FaultError, which calls it `name`, if it is no integer within the limits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FaultError(name, f"{value!r} is no integer")
    if not minimum <= value <= maximum:
        raise FaultError(name, f"{value} is outside {minimum} to {maximum}")
    return int(value)
