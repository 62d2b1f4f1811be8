# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that a device is told to show: what it does wrong, to which events, when and how often.

A fault is data; what its action is and takes is declared in `ihsm_abi.fault_table`. As JSON a fault is an object::

    {"action": "delay-completion", "match": {"queue": 1, "operation": "EccSign"}, "when": {"nth": 2, "count": 1},
     "parameters": {"ms": 7000}}

Members that say nothing may be left out. Values are integers but for `operation` and `register`, which are names
(an operation that has none is its number), and for parameters with choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Self

from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.fault_actions import (
    MAX_COUNT,
    MAX_MS,
    MAX_SEED,
    PER_MILLE,
    ActionSpec,
    FaultAction,
    FaultError,
    FaultPoint,
    check_integer,
)
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.pci import MSIX_VECTORS
from ihsm_abi.registers import Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, LAST_AES_QUEUE_ID, LAST_HSM_QUEUE_ID


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
    """Which of the matching events are hit: `count` of them from the `nth` on. None is counted outside the time.

    What is left to chance depends on `seed` and on the event's number alone: the same events are hit every time.
    """

    nth: int = 1
    """The first matching event is number 1."""
    count: int | None = None
    """How many are hit, all if None."""
    after_ms: int = 0
    """Milliseconds from when the fault was added to when it begins."""
    for_ms: int | None = None
    """Milliseconds from its beginning to its end, None for no end."""
    per_mille: int | None = None
    """How many of a thousand events are hit on average, by chance; all if None."""
    seed: int = 0
    """Of the chance."""

    def __post_init__(self) -> None:
        """Check the limits; raises FaultError."""
        check_integer("when.nth", self.nth, 1, MAX_COUNT)
        if self.count is not None:
            check_integer("when.count", self.count, 1, MAX_COUNT)
        check_integer("when.after_ms", self.after_ms, 0, MAX_MS)
        if self.for_ms is not None:
            check_integer("when.for_ms", self.for_ms, 1, MAX_MS)
        if self.per_mille is not None:
            check_integer("when.per_mille", self.per_mille, 1, PER_MILLE)
        check_integer("when.seed", self.seed, 0, MAX_SEED)

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
        spec.check(values)
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


@dataclass(frozen=True, slots=True)
class StandingFault:
    """A fault that a function shows, and what has become of it."""

    number: int
    """Its id."""
    fault: Fault
    hits: int
    """Events that it was taken for; of resets, those that are over."""
    left: int | None
    """Events that it will be taken for; None: there is no limit."""

    def to_json(self) -> dict[str, Any]:
        """The object that `from_json` reads."""
        return {"id": self.number, "fault": self.fault.to_json(), "hits": self.hits, "left": self.left}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The one that an object describes; raises LookupError, TypeError or ValueError."""
        return cls(value["id"], Fault.from_json(value["fault"]), value["hits"], value["left"])


def _given(part: Match | When) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    return {
        declared.name: value for declared in fields(part) if (value := getattr(part, declared.name)) != declared.default
    }


def _listed(names: tuple[str, ...]) -> str:
    return f"only {', '.join(names)}" if names else "none"


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
