# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The recorded accesses of the Linux driver, and those of the model, without what differs from run to run."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np

from ihsm_abi.admin import ADMIN_SQE
from ihsm_abi.doorbells import sq_tail_offset
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from support.bent_function import Access, BentFunction

TRACE: Final = Path(__file__).parents[1] / "data" / "linux-driver-3.2.0-commands.jsonl"
HIDDEN: Final = (Register.ASQ, Register.ACQ, Register.CAP, Register.VS)
"""Addresses, and what the recorded prototype has of its own."""

Event = tuple[Any, ...]


def recorded(step: str) -> list[Event]:
    """What the driver did in the step whose name begins so: accesses, and admin commands behind their doorbells."""
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()]
    start = next(i for i, line in enumerate(lines) if line["op"] == "step" and line["name"].startswith(step))
    events = []
    for line in lines[start + 1 :]:
        if line["op"] == "step":
            break
        if line["op"] in ("read", "write"):
            events.append(_access(Access(line["op"], line["bar"], line["off"], line["size"], line["value"])))
        elif line["op"] == "sqe" and line["sqid"] == ADMIN_QUEUE_ID:
            events.append(_command(np.frombuffer(bytes.fromhex(line["bytes"]), ADMIN_SQE)[0]))
    return _polls_as_one(events)


def seen(function: BentFunction) -> list[Event]:
    """The same of what the model did since the last call."""
    commands = iter(function.admin)
    events = []
    for access in function.take():
        events.append(_access(access))
        if access.op == "write" and (access.bar, access.offset) == (Bar.DOORBELLS, sq_tail_offset(ADMIN_QUEUE_ID)):
            events.append(_command(next(commands)))
    function.admin.clear()
    return _polls_as_one(events)


def _access(access: Access) -> Event:
    hidden = access.bar == Bar.REGISTERS and access.offset in HIDDEN
    return (access.op, int(access.bar), int(access.offset), access.width, None if hidden else access.value)


def _command(sqe: Any) -> Event:
    return ("admin", *(int(sqe[name]) for name in ADMIN_SQE.names or () if name not in ("cid", "prp1")))


def _polls_as_one(events: list[Event]) -> list[Event]:
    """Of reads of CSTS that follow each other the last: how many there are is a matter of time."""
    is_poll = lambda event: event[:3] == ("read", Bar.REGISTERS, Register.CSTS)  # noqa: E731
    return [event for poll, group in groupby(events, is_poll) for event in (list(group)[-1:] if poll else group)]
