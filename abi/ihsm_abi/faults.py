# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that a device is told to show: what it does wrong, to which events, when and how often.

A fault is data. `ACTIONS` declares each action once: the point of the device where it acts, what can be matched there,
its parameters with their limits. As JSON a fault is an object::

    {"action": "delay-completion", "match": {"queue": 1, "operation": "EccSign"}, "when": {"nth": 2, "count": 1},
     "parameters": {"ms": 7000}}

Members that say nothing may be left out. Values are integers but for `operation` and `register`, which are names
(an operation that has none is its number), and for parameters with choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.pci import MSIX_VECTORS
from ihsm_abi.registers import Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, LAST_AES_QUEUE_ID, LAST_HSM_QUEUE_ID

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which events at a point are meant: all fields that are given must fit."""

    queue: int | None = None
    """Queue id."""
    opcode: int | None = None
    """Admin command: its opcode. HSM command: 0 normal, 1 flush. AES command: its cipher, 0 GCM, 1 XTS."""
    operation: DdiOp | None = None
    """Operation code in the request's header of a normal HSM command."""
    session: int | None = None
    """Session id in the entry: of an HSM command whose control byte says it is valid, of any AES command."""
    register: Register | None = None
    """Register that is read, at least in part."""
    vector: int | None = None
    """MSI-X vector."""

    def __post_init__(self) -> None:
        """Check the limits; raises FaultError."""
        if self.queue is not None:
            check_integer("match.queue", self.queue, 0, LAST_AES_QUEUE_ID)
            if LAST_HSM_QUEUE_ID < self.queue < FIRST_AES_QUEUE_ID:
                raise FaultError("match.queue", f"no queue can have the id {self.queue}")
        for name, maximum in (("opcode", 0x3FF), ("session", 0xFFFF), ("vector", MSIX_VECTORS - 1)):
            if (value := getattr(self, name)) is not None:
                check_integer(f"match.{name}", value, 0, maximum)
        if self.operation is not None and not isinstance(self.operation, DdiOp):
            raise FaultError("match.operation", f"{self.operation!r} is no operation")
        if self.register is not None and not isinstance(self.register, Register):
            raise FaultError("match.register", f"{self.register!r} is no register")

    def to_json(self) -> dict[str, Any]:
        """The object, without what matches everything."""
        names: dict[str, Any] = {}
        if self.operation is not None:
            names["operation"] = self.operation.name if self.operation.known else int(self.operation)
        if self.register is not None:
            names["register"] = self.register.name
        return {name: names.get(name, value) for name, value in _given(self).items()}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The match that an object describes; raises FaultError."""
        members = _members("match", value, _MATCH_FIELDS)
        if "operation" in members:
            members["operation"] = _operation(members["operation"])
        if "register" in members:
            members["register"] = _register(members["register"])
        return cls(**members)


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """Which of the matching events are hit: `count` of them from the `nth` on. None is counted outside the time."""

    nth: int = 1
    """The first matching event is number 1."""
    count: int | None = None
    """How many are hit, all if None."""
    after_ms: int = 0
    """Milliseconds from when the fault was added to when it begins."""
    for_ms: int | None = None
    """Milliseconds from its beginning to its end, None for no end."""

    def __post_init__(self) -> None:
        """Check the limits; raises FaultError."""
        check_integer("when.nth", self.nth, 1, MAX_COUNT)
        if self.count is not None:
            check_integer("when.count", self.count, 1, MAX_COUNT)
        check_integer("when.after_ms", self.after_ms, 0, MAX_MS)
        if self.for_ms is not None:
            check_integer("when.for_ms", self.for_ms, 1, MAX_MS)

    def to_json(self) -> dict[str, Any]:
        """The object, without what is as it is by default."""
        return _given(self)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The times that an object describes; raises FaultError."""
        return cls(**_members("when", value, _WHEN_FIELDS))


_MATCH_FIELDS: Final = tuple(declared.name for declared in fields(Match))
_WHEN_FIELDS: Final = tuple(declared.name for declared in fields(When))


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: an action, the events it is taken for, when, and its parameters."""

    action: FaultAction
    match: Match = field(default_factory=Match)
    when: When = field(default_factory=When)
    parameters: Mapping[str, int | str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check everything against `ACTIONS`; raises FaultError."""
        spec = self.spec
        for prefix, part, allowed in (("match", self.match, spec.matches), ("when", self.when, spec.whens)):
            for name in _given(part):
                if name not in allowed:
                    raise FaultError(f"{prefix}.{name}", f"{self.action} takes {_listed(allowed)}")
        for name in self.parameters:
            if spec.parameter(name) is None:
                takes = _listed(tuple(parameter.name for parameter in spec.parameters))
                raise FaultError(f"parameters.{name}", f"{self.action} takes {takes}")
        values = {}
        for parameter in spec.parameters:
            if parameter.name in self.parameters:
                values[parameter.name] = parameter.check(self.parameters[parameter.name])
            elif parameter.required:
                raise FaultError(f"parameters.{parameter.name}", f"{self.action} needs it")
        if spec.any_parameter and not values:
            takes = " or ".join(parameter.name for parameter in spec.parameters)
            raise FaultError("parameters", f"{self.action} needs {takes}")
        object.__setattr__(self, "parameters", MappingProxyType(values))

    @property
    def spec(self) -> ActionSpec:
        """The declaration of its action."""
        return ACTIONS[self.action]

    @property
    def point(self) -> FaultPoint:
        """Where it acts."""
        return self.spec.point

    def to_json(self) -> dict[str, Any]:
        """The object that `from_json` reads, without members that say nothing."""
        record = {
            "match": self.match.to_json(),
            "when": self.when.to_json(),
            "parameters": dict(self.parameters),
        }
        return {"action": str(self.action)} | {name: value for name, value in record.items() if value}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The fault that an object describes.

        Raises:
            FaultError: there is none like that; its `field` names the member.
        """
        members = _members("fault", value, ("action", "match", "when", "parameters"))
        name = members.get("action")
        if not isinstance(name, str) or name not in list(FaultAction):
            raise FaultError("action", f"{name!r} is none of {', '.join(FaultAction)}")
        action = FaultAction(name)
        parameters = _members(
            "parameters",
            members.get("parameters", {}),
            tuple(parameter.name for parameter in ACTIONS[action].parameters),
        )
        return cls(
            action, Match.from_json(members.get("match", {})), When.from_json(members.get("when", {})), parameters
        )


def _given(part: Match | When) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    return {
        declared.name: value for declared in fields(part) if (value := getattr(part, declared.name)) != declared.default
    }


def _listed(names: tuple[str, ...]) -> str:
    return f"only {', '.join(names)}" if names else "none"


def check_integer(name: str, value: object, minimum: int, maximum: int) -> int:
    """The value; raises FaultError, which calls it `name`, if it is no integer within the limits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise FaultError(name, f"{value!r} is no integer")
    if not minimum <= value <= maximum:
        raise FaultError(name, f"{value} is outside {minimum} to {maximum}")
    return int(value)


def _members(name: str, value: object, known: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object's members, but those that are null."""
    if not isinstance(value, dict):
        raise FaultError(name, "an object is required")
    prefix = "" if name == "fault" else f"{name}."
    for member in value:
        if member not in known:
            raise FaultError(f"{prefix}{member}", f"unknown, {name} takes {_listed(known)}")
    return {member: part for member, part in value.items() if part is not None}


def _operation(value: object) -> DdiOp:
    if isinstance(value, str):
        if value not in DdiOp.__members__:
            raise FaultError("match.operation", f"{value!r} is no operation")
        return DdiOp[value]
    return DdiOp(check_integer("match.operation", value, 0, 0xFFFF_FFFF))


def _register(value: object) -> Register:
    if not isinstance(value, str) or value not in Register.__members__:
        raise FaultError("match.register", f"{value!r} is none of {', '.join(Register.__members__)}")
    return Register[value]
