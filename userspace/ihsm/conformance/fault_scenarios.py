# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A scenario for each row of the fault table, and for each place where its driver meets it differently.

Where the device acts says what makes a driver meet it; the action says how the calls that are hit may end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ihsm.conformance.scenario import (
    Act,
    AwaitHit,
    Clear,
    Elapse,
    Ends,
    Finish,
    Inject,
    Op,
    Program,
    Recovery,
    Run,
    Scenario,
    Start,
    Step,
)
from ihsm_abi.fault_actions import ActionSpec, FaultAction, FaultPoint, Resource
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.fault_words import from_words
from ihsm_abi.faults import Fault
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID, FIRST_HSM_QUEUE_ID

_HSM_VECTOR: Final = 1
_AES: Final = frozenset({Op.COMMAND, Op.AES})
_RESET: Final = frozenset({Op.COMMAND, Op.RESET})
GONE_LIMIT_S: Final = 400.0
"""A driver that deletes each queue of a device which is gone waits 30 s for each answer."""
_MONITOR_S: Final = 15.0
"""In which a driver looks at CSTS at least twice."""
_A_MOMENT_S: Final = 0.1
"""In which a driver serves what the device has signalled."""
_LOAD: Final = Program(Op.COMMAND, count=4, threads=2)

VALUES: Final[Mapping[FaultAction, Sequence[Mapping[str, int | str]]]] = {
    FaultAction.DELAY_COMPLETION: ({"ms": 200},),
    FaultAction.WRONG_CID: ({"cid": 0xFFFF},),
    FaultAction.WRONG_SQHD: ({"sqhd": 0},),
    FaultAction.WRONG_STATUS: ({"status": 6},),
    FaultAction.FAIL_DMA: ({"part": "source"}, {"part": "destination"}, {"part": "entry"}),
    FaultAction.DELAY_INTERRUPT: ({"ms": 200},),
    FaultAction.SPURIOUS_INTERRUPT: ({"vector": _HSM_VECTOR},),
    FaultAction.LATE_READY: ({"reads": 20},),
    FaultAction.CORRUPT_RESPONSE: ({"at": 0},),
    FaultAction.CUT_RESPONSE: ({"bytes": 4},),
    FaultAction.REORDER_COMPLETIONS: ({"behind": 1},),
    FaultAction.EXHAUST_RESOURCE: tuple({"resource": str(resource)} for resource in Resource),
    FaultAction.STORM_INTERRUPT: ({"vector": _HSM_VECTOR, "us": 1000, "count": 100},),
    FaultAction.PAUSE_PROCESS: ({"ms": 300},),
    FaultAction.WRONG_BAR_SIZE: ({"bar": "doorbells", "size": 8192},),
    FaultAction.WRONG_VECTORS: ({"vectors": 2}, {"vectors": 0}),
    FaultAction.WRONG_IDENTIFY: ({"field": "cp_sqes", "value": 5},),
    FaultAction.WRONG_CAP_TO: ({"to": 0},),
    FaultAction.GRANT_QUEUES: ({"hsm": 0}, {"hsm": 1, "aes": 0}),
}
"""Parameters that a fault is tried with; an action without a row is tried with the least that its parameters allow."""
_TOLD: Final = frozenset(
    {
        FaultAction.DROP_COMPLETION, FaultAction.WRONG_CID, FaultAction.WRONG_STATUS, FaultAction.FAIL_DMA,
        FaultAction.RESET_FUNCTION,
    }
)  # fmt: skip
"""The command is not answered, or by an error: a driver cannot report success."""
_HARMLESS: Final = frozenset(
    {
        FaultAction.DELAY_COMPLETION, FaultAction.DELAY_INTERRUPT, FaultAction.SPURIOUS_INTERRUPT,
        FaultAction.LATE_READY, FaultAction.STORM_INTERRUPT, FaultAction.PAUSE_PROCESS,
    }
)  # fmt: skip
"""Nothing is wrong that a driver could not wait for."""


UNANNOUNCED: Final[Mapping[str, str]] = {
    "reset-noticed": "nobody tells a driver that has no reset_prepare that its function was reset"
}
"""What any driver does that learns of a reset by its commands' time-outs."""
TOLERATED: Final[Mapping[FaultAction, Mapping[str, str]]] = {
    FaultAction.RESET_FUNCTION: {
        **UNANNOUNCED,
        "entry-queue": "the command with which the function is reset was fetched before, and is told after",
    },
}
"""By action: rules of the trace that a right driver breaks when it is hit."""
_QUICK_ON_AES: Final = frozenset({FaultAction.DROP_COMPLETION, FaultAction.WRONG_PHASE})
_QUICK_IN_BIND: Final = frozenset({FaultAction.DROP_COMPLETION, FaultAction.WRONG_STATUS})
"""Those that `--quick` has there, too."""
REBOUND: Final = frozenset({FaultAction.WRONG_PHASE})
"""The completion ring cannot be trusted any more, and recovery by level 1 keeps it (01 §8.2)."""


def _ends(action: FaultAction) -> Ends:
    if ACTIONS[action].point is FaultPoint.RESPONSE:
        return Ends.GARBLED
    return Ends.TOLD if action in _TOLD else Ends.WELL if action in _HARMLESS else Ends.ANYHOW


def _values(spec: ActionSpec) -> Sequence[Mapping[str, int | str]]:
    """Parameters to try."""
    least: dict[str, int | str] = {
        parameter.name: parameter.choices[0] if parameter.choices else parameter.minimum
        for parameter in spec.parameters
        if parameter.required or spec.any_parameter
    }
    return VALUES.get(spec.action, (least,))


def _names(
    spec: ActionSpec, values: Sequence[Mapping[str, int | str]]
) -> Iterator[tuple[str, Mapping[str, int | str]]]:
    """The name of each scenario: the action's, and what distinguishes it where there are several."""
    for one in values:
        tail = "-".join(f"{name}-{value}" if isinstance(value, int) else value for name, value in one.items())
        yield (f"{spec.action}-{tail}" if len(values) > 1 else str(spec.action)), one


def _fault(spec: ActionSpec, values: Mapping[str, int | str], **more: int | str) -> Fault:
    """With `count` 1 where the action counts."""
    usual: dict[str, int | str] = {"count": 1} if "count" in spec.whens else {}
    return from_words(spec.action, {**usual, **values, **more})


def _of_commands(spec: ActionSpec) -> Iterator[Scenario]:
    """What happens to a command: on an HSM queue, on an AES queue, and to an admin command of the bring-up."""
    ends = _ends(spec.action)
    tolerates = TOLERATED.get(spec.action, {})
    recovery = Recovery.REBIND if spec.action in REBOUND else Recovery.ITSELF
    released: tuple[Step, ...] = (Clear(),) if spec.action is FaultAction.HOLD_COMMAND else ()
    for name, values in _names(spec, _values(spec)):
        hsm = _fault(spec, values, queue=FIRST_HSM_QUEUE_ID)
        yield Scenario(
            f"fault/{name}", f"HSM command: {spec.meaning}", spec.spec,
            (Inject(hsm, among=_LOAD.calls), Start("load", _LOAD), AwaitHit(), *released, Finish("load", ends)),
            recovery=recovery, tolerates=tolerates,
        )  # fmt: skip
        if released:
            yield Scenario(
                f"fault/{name}-late", f"HSM command, for longer than the driver waits: {spec.meaning}", spec.spec,
                (Inject(hsm), Start("load", Program(Op.COMMAND)), AwaitHit(), Elapse(6.2), Clear(),
                 Finish("load", Ends.ANYHOW)),
            )  # fmt: skip
        aes = _fault(spec, values, queue=FIRST_AES_QUEUE_ID)
        yield Scenario(
            f"fault/{name}-aes", f"AES command: {spec.meaning}", spec.spec,
            (Inject(aes), Start("load", Program(Op.AES, count=2)), AwaitHit(), *released, Finish("load", Ends.ANYHOW)),
            recovery=recovery, tolerates=tolerates, needs=_AES, is_quick=spec.action in _QUICK_ON_AES,
        )  # fmt: skip
        admin = _fault(spec, values, queue=ADMIN_QUEUE_ID)
        yield Scenario(
            f"fault/{name}-admin", f"admin command of a bind: {spec.meaning}", spec.spec,
            (Run(Act.UNBIND), Inject(admin, among=4), Start("bind", Act.BIND), AwaitHit(), *released,
             Finish("bind", Ends.ANYHOW)),
            recovery=Recovery.REBIND, tolerates=tolerates, is_quick=spec.action in _QUICK_IN_BIND,
        )  # fmt: skip


def _of_interrupts(spec: ActionSpec) -> Iterator[Scenario]:
    for name, values in _names(spec, _values(spec)):
        yield Scenario(
            f"fault/{name}", spec.meaning, spec.spec,
            (Inject(_fault(spec, values, vector=_HSM_VECTOR)), Start("load", Program(Op.COMMAND)), AwaitHit(),
             Finish("load", _ends(spec.action))),
        )  # fmt: skip


def _of_resources(spec: ActionSpec) -> Iterator[Scenario]:
    for name, values in _names(spec, _values(spec)):
        resource = Resource(str(values["resource"]))
        what: Program | Act = Program(Op.COMMAND if resource is Resource.REQUESTS else Op.AES)
        if resource is Resource.QUEUES:
            what = Act.BIND
        unbound: tuple[Step, ...] = (Run(Act.UNBIND),) if what is Act.BIND else ()
        yield Scenario(
            f"fault/{name}", spec.meaning, spec.spec,
            (*unbound, Inject(_fault(spec, values)), Start("load", what), AwaitHit(), Finish("load", Ends.TOLD)),
            recovery=Recovery.REBIND if what is Act.BIND else Recovery.ITSELF,
            needs=_AES if isinstance(what, Program) and what.op is Op.AES else frozenset({Op.COMMAND}),
        )  # fmt: skip


def _of_what_must_not_be(spec: ActionSpec) -> Iterator[Scenario]:
    """While nothing is wrong a driver sends no admin command: it deletes no queue."""
    yield Scenario(
        f"fault/{spec.action}", "an admin command while all is well", spec.spec,
        (Inject(from_words(spec.action, {"queue": ADMIN_QUEUE_ID})), Run(_LOAD), Clear()),
    )  # fmt: skip


def _of_starts(spec: ActionSpec) -> Iterator[Scenario]:
    for name, values in _names(spec, _values(spec)):
        yield Scenario(
            f"fault/{name}", f"from the device's start: {spec.meaning}", spec.spec,
            (Run(Program(Op.COMMAND), Ends.ANYHOW), Run(Act.UNBIND, Ends.ANYHOW), Run(Act.BIND, Ends.ANYHOW)),
            recovery=Recovery.NONE, spoils=True, from_start=(from_words(spec.action, values),),
        )  # fmt: skip


def _of_time(spec: ActionSpec) -> Iterator[Scenario]:
    if spec.action is FaultAction.REMOVE_FUNCTION:
        yield Scenario(
            f"fault/{spec.action}", spec.meaning, spec.spec,
            (Inject(_fault(spec, {})), AwaitHit(), Run(Program(Op.COMMAND), Ends.ANYHOW), Clear()),
            recovery=Recovery.REBIND, tolerates=UNANNOUNCED, limit_s=GONE_LIMIT_S,
        )  # fmt: skip
        return
    for name, values in _names(spec, _values(spec)):
        yield Scenario(
            f"fault/{name}", spec.meaning, spec.spec,
            (Inject(_fault(spec, values)), AwaitHit(), Elapse(_A_MOMENT_S), Run(_LOAD, _ends(spec.action))),
        )  # fmt: skip


def _of_registers(spec: ActionSpec) -> Iterator[Scenario]:
    """A driver that looks at CSTS by itself meets it so, another one when it is bound."""
    for name, values in _names(spec, _values(spec)):
        fault = from_words(spec.action, values)
        yield Scenario(
            f"fault/{name}", f"while idle: {spec.meaning}", spec.spec,
            (Inject(fault), Elapse(_MONITOR_S), AwaitHit(), Run(Program(Op.COMMAND), Ends.ANYHOW), Clear(),
             Elapse(_MONITOR_S)),
            recovery=Recovery.REBIND, tolerates=TOLERATED.get(spec.action, {}),
        )  # fmt: skip
        yield Scenario(
            f"fault/{name}-bind", f"in a bind: {spec.meaning}", spec.spec,
            (Run(Act.UNBIND), Inject(fault), Start("bind", Act.BIND), AwaitHit(), Finish("bind", Ends.ANYHOW)),
            recovery=Recovery.REBIND, tolerates=TOLERATED.get(spec.action, {}),
        )  # fmt: skip


def _of_enable(spec: ActionSpec) -> Iterator[Scenario]:
    for name, values in _names(spec, _values(spec)):
        yield Scenario(
            f"fault/{name}", f"in a bind: {spec.meaning}", spec.spec,
            (Run(Act.UNBIND), Inject(_fault(spec, values)), Start("bind", Act.BIND), AwaitHit(),
             Finish("bind", _ends(spec.action))),
            recovery=Recovery.REBIND,
        )  # fmt: skip


def _of_disable(spec: ActionSpec) -> Iterator[Scenario]:
    for name, values in _names(spec, _values(spec)):
        yield Scenario(
            f"fault/{name}", f"in an unbind: {spec.meaning}", spec.spec,
            (Inject(_fault(spec, values)), Start("unbind", Act.UNBIND), AwaitHit(), Finish("unbind", Ends.ANYHOW)),
            recovery=Recovery.REBIND,
        )  # fmt: skip
        yield Scenario(
            f"fault/{name}-reset", f"in a reset by a program: {spec.meaning}", spec.spec,
            (Inject(_fault(spec, values)), Start("reset", Program(Op.RESET)), AwaitHit(),
             Finish("reset", Ends.ANYHOW)),
            recovery=Recovery.REBIND, needs=_RESET,
        )  # fmt: skip


def _of_subsystem_reset(spec: ActionSpec) -> Iterator[Scenario]:
    for name, values in _names(spec, _values(spec)):
        yield Scenario(
            f"fault/{name}", f"in a reset by a program: {spec.meaning}", spec.spec,
            (Inject(_fault(spec, values)), Start("reset", Program(Op.SUBSYSTEM_RESET)), AwaitHit(),
             Finish("reset", Ends.ANYHOW)),
            recovery=Recovery.REBIND, needs=_RESET,
        )  # fmt: skip


_BY_POINT: Final = {
    FaultPoint.RESPONSE: _of_commands,
    FaultPoint.RESOURCE: _of_resources,
    FaultPoint.START: _of_starts,
    FaultPoint.FETCH: _of_commands,
    FaultPoint.COMPLETION: _of_commands,
    FaultPoint.INTERRUPT: _of_interrupts,
    FaultPoint.TIME: _of_time,
    FaultPoint.REGISTER: _of_registers,
    FaultPoint.ENABLE: _of_enable,
    FaultPoint.DISABLE: _of_disable,
    FaultPoint.SUBSYSTEM_RESET: _of_subsystem_reset,
    FaultPoint.FEATURES: _of_enable,
}


def fault_scenarios() -> list[Scenario]:
    """For every action that the device knows."""
    found: list[Scenario] = []
    for spec in ACTIONS.values():
        make = _of_what_must_not_be if spec.action is FaultAction.NEVER else _BY_POINT[spec.point]
        found += make(spec)
    return found
