# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""All scenarios but those that faults make (`fault_scenarios`)."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from ihsm.conformance.fault_scenarios import GONE_LIMIT_S, UNANNOUNCED, fault_scenarios
from ihsm.conformance.scenario import (
    Act,
    AwaitHit,
    Clear,
    Elapse,
    Ends,
    Finish,
    Inject,
    Kill,
    Op,
    Program,
    Recovery,
    Run,
    Scenario,
    Start,
    Step,
)
from ihsm_abi.fault_words import from_words
from ihsm_abi.faults import Fault
from ihsm_abi.resources import FIRST_HSM_QUEUE_ID

_SERVED_LATE: Final = {
    "doorbell-queue": "an interrupt from before the disable is served behind it: its vector is freed later (01 §8.3)"
}
_INFORMATION: Final = frozenset({Op.INFORMATION})
_COMMAND: Final = frozenset({Op.COMMAND})
_AES: Final = frozenset({Op.COMMAND, Op.AES})
_RESET: Final = frozenset({Op.COMMAND, Op.RESET})
_LOAD: Final = Program(Op.COMMAND, count=10, threads=2)
_HELD: Final = Program(Op.COMMAND)


def _fault(action: str, **values: int) -> Fault:
    return from_words(action, {"queue": FIRST_HSM_QUEUE_ID, "count": 1, **values})


def _rebinds(times: int, program: Program) -> tuple[Step, ...]:
    return (Run(program), *(Run(what) for _ in range(times) for what in (Act.UNBIND, Act.BIND, program)))


def _under_way(action: str, *then: Step) -> tuple[Step, ...]:
    """A command is with the device, which does not answer it, when the rest happens."""
    return (Inject(_fault(action)), Start("program", _HELD), AwaitHit(), *then)


def _binds() -> Sequence[Scenario]:
    information = Program(Op.INFORMATION)
    return (
        Scenario("bind/again", "unbound and bound, again and again", "01 §12, §13", _rebinds(7, information),
                 needs=_INFORMATION),
        Scenario("bind/many", "the same, twenty times", "01 §12, §13", _rebinds(20, information), is_quick=False,
                 needs=_INFORMATION),
        Scenario("bind/used", "the same, and used in between", "01 §12, §13",
                 _rebinds(3, Program(Op.COMMAND, count=3))),
        Scenario("bind/used-aes", "the same, with sessions and AES commands", "01 §12, §13",
                 _rebinds(2, Program(Op.AES)), needs=_AES),
    )  # fmt: skip


def _load() -> Sequence[Scenario]:
    return (
        Scenario("load/one", "one program, one command after the other", "02 A.6",
                 (Run(Program(Op.COMMAND, count=40)),)),
        Scenario("load/threads", "threads of one program, more than a ring has entries", "01 §5.1, 02 A.6",
                 (Run(Program(Op.COMMAND, count=8, threads=24)),)),
        Scenario("load/processes", "programs beside each other", "02 A.3",
                 (Run(Program(Op.COMMAND, count=8, processes=4)),)),
        Scenario("load/aes", "programs with sessions and AES commands", "02 A.7",
                 (Run(Program(Op.AES, count=2, processes=2)),), needs=_AES),
        Scenario("load/mixed", "programs of every kind at the same time", "02 A.3",
                 (Start("commands", Program(Op.COMMAND, count=20, threads=4)),
                  Start("aes", Program(Op.AES, count=2, processes=2)),
                  Start("information", Program(Op.INFORMATION, count=20)),
                  Finish("commands", Ends.WELL), Finish("aes", Ends.WELL), Finish("information", Ends.WELL)),
                 needs=_AES),
        Scenario("load/long", "a thousand commands", "01 §5.1",
                 (Run(Program(Op.COMMAND, count=125, threads=4, processes=2)),), is_quick=False),
    )  # fmt: skip


def _deaths() -> Sequence[Scenario]:
    return (
        Scenario("death/held", "kill -9 of a program whose command the device is at work on", "02 A.3, 01 §8.1",
                 _under_way("hold-command", Kill("program", signal.SIGKILL), Clear(), Finish("program", Ends.ANYHOW))),
        Scenario("death/unanswered", "kill -9 of a program whose command is never answered", "02 A.3, 01 §8.1",
                 _under_way("drop-completion", Kill("program", signal.SIGKILL), Finish("program", Ends.ANYHOW))),
        Scenario("death/many", "kill -9 of programs in the middle of their work", "02 A.3",
                 (Start("programs", Program(Op.COMMAND, count=200, threads=2, processes=2)), Elapse(0.5),
                  Kill("programs", signal.SIGKILL), Finish("programs", Ends.ANYHOW)), is_quick=False),
        Scenario("death/signal", "a signal for a program whose command the device is at work on", "02 A.6",
                 _under_way("hold-command", Kill("program", signal.SIGUSR1), Elapse(1), Clear(),
                            Finish("program", Ends.ANYHOW))),
    )  # fmt: skip


def _resets() -> Sequence[Scenario]:
    scenarios = [
        Scenario("reset/function-idle", "function level reset while nothing is under way", "01 §8.6",
                 (Run(Program(Op.INFORMATION)), Run(Act.RESET), Run(Program(Op.COMMAND), Ends.ANYHOW)),
                 tolerates=UNANNOUNCED),
        Scenario("reset/function-loaded", "function level reset under commands", "01 §8.6",
                 _under_way("hold-command", Run(Act.RESET), Clear(), Finish("program", Ends.ANYHOW)),
                 tolerates=UNANNOUNCED),
    ]  # fmt: skip
    for op in (Op.RESET, Op.SUBSYSTEM_RESET):
        name = "controller" if op is Op.RESET else "subsystem"
        scenarios += [
            Scenario(f"reset/{name}-idle", "the reset ioctl while nothing is under way", "01 §8.3, §8.5",
                     (Run(Program(op, count=3)), Run(Program(Op.COMMAND))), needs=_RESET),
            Scenario(f"reset/{name}-unanswered", "the reset ioctl while a command is not answered", "01 §8.3, §8.5",
                     _under_way("drop-completion", Run(Program(op)), Finish("program", Ends.TOLD)), needs=_RESET),
            Scenario(f"reset/{name}-loaded", "the reset ioctl under many commands", "01 §8.3, §8.5",
                     (Start("load", Program(Op.COMMAND, count=20, threads=4)), Run(Program(op, count=3)),
                      Finish("load", Ends.ANYHOW)), needs=_RESET, tolerates=_SERVED_LATE),
        ]  # fmt: skip
    return scenarios


def _removals() -> Sequence[Scenario]:
    return (
        Scenario("removal/idle", "the function goes and comes back", "01 §4.6, §13",
                 (Run(Program(Op.INFORMATION)), Run(Act.REMOVE), Run(Act.RETURN)), needs=_INFORMATION,
                 limit_s=GONE_LIMIT_S),
        Scenario("removal/used", "the same, and used before and after", "01 §4.6, §13",
                 (Run(_LOAD), Run(Act.REMOVE), Run(Act.RETURN), Run(_LOAD)), limit_s=GONE_LIMIT_S),
        Scenario("removal/unbound-loaded", "unbound under a command that is not answered", "01 §13",
                 _under_way("drop-completion", Run(Act.UNBIND), Finish("program", Ends.TOLD), Clear(), Run(Act.BIND)),
                 is_quick=False, spoils=True),
        Scenario("removal/loaded", "the function goes under a command, and comes back", "01 §4.6, §13",
                 _under_way("drop-completion", Run(Act.REMOVE), Finish("program", Ends.TOLD), Clear(),
                            Run(Act.RETURN)), is_quick=False, spoils=True, limit_s=GONE_LIMIT_S),
    )  # fmt: skip


def _shutdowns() -> Sequence[Scenario]:
    return (
        Scenario("shutdown/idle", "the machine goes down", "01 §4.6", (Run(_LOAD), Run(Act.SHUTDOWN)),
                 recovery=Recovery.NONE, spoils=True),
        Scenario("shutdown/loaded", "the machine goes down with a command outstanding", "01 §4.6",
                 _under_way("hold-command", Run(Act.SHUTDOWN)), recovery=Recovery.NONE, spoils=True),
    )  # fmt: skip


def all_scenarios() -> list[Scenario]:
    """All, in the order in which they are tried: those that spoil their machine are last."""
    groups = (_binds(), _load(), _deaths(), _resets(), _removals(), fault_scenarios(), _shutdowns())
    return sorted((scenario for group in groups for scenario in group), key=lambda scenario: scenario.spoils)
