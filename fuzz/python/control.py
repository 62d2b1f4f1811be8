# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Lines on a control socket, to the handlers of faults: each is answered by one line that a client can read.

An input is a line as it stands; or, behind a zero byte, bytes that choose a command and arguments which mostly are of
the known names.
"""

import asyncio
import functools
import json
from collections.abc import Awaitable, Mapping
from typing import Any

from harness import Values, failures_are_findings, instrumented, main

with instrumented():
    from ihsm_abi.control import MAX_LINE_BYTES, ControlAnswer, ControlCommand, ControlErrorCode
    from ihsm_abi.fault_actions import FaultAction
    from ihsm_device import faults as fault_sets
    from ihsm_device.control_socket import FollowedResult, Handler, Result, answer
    from ihsm_device.engine import Engine
    from ihsm_device.fault_commands import FaultCommands
    from ihsm_device.faults import FaultSet
    from ihsm_device.hosts import LoopbackHost
    from ihsm_device.scheduler import Scheduler

ACTIONS = [action.value for action in FaultAction]
NAMES = ("action", "queue", "opcode", "operation", "session", "vector", "registers", "parts", "nth", "count", "after",
         "for", "delay", "every", "chance", "seed", "value", "err", "at", "id", "timeout", "text", "hits")  # fmt: skip
COMMANDS = [command.value for command in ControlCommand if command.startswith("fault.")]


def some_json(values: Values, depth: int = 0) -> Any:
    """A value of JSON."""
    kind = values.number() % (9 if depth < 3 else 7)
    match kind:
        case 0:
            return values.choice(ACTIONS)
        case 1:
            return values.number()
        case 2:
            return values.number(8) - (1 << 63)
        case 3:
            return values.number(2) / 64
        case 4:
            return values.bytes(values.number() % 16).decode("latin-1")
        case 5:
            return values.chance()
        case 6:
            return None
        case 7:
            return [some_json(values, depth + 1) for _ in range(values.number() % 4)]
    return {values.choice(NAMES): some_json(values, depth + 1) for _ in range(values.number() % 6)}


def line_of(values: Values) -> bytes:
    """A request that is well-formed."""
    arguments = {values.choice(NAMES): some_json(values) for _ in range(values.number() % 6)}
    if values.chance():
        arguments["action"] = values.choice(ACTIONS)
    return json.dumps({"id": some_json(values), "command": values.choice(COMMANDS), "arguments": arguments}).encode()


@functools.cache
def the_faults() -> tuple[FaultSet, Mapping[str, Handler]]:
    """Of one function that no client has; no fault hits anything there, and pauses take no time."""
    fault_sets.pause = lambda seconds: None
    engine = Engine(Scheduler(), LoopbackHost())
    faults = FaultSet(engine)
    return faults, FaultCommands(faults).handlers


async def at_once(awaitable: Awaitable[Result]) -> Result:
    """What is there without waiting, else as if the client had gone."""
    task = asyncio.ensure_future(awaitable)
    await asyncio.sleep(0)
    if task.done():
        return task.result()
    task.cancel()
    raise ConnectionAbortedError


def one_input(data: bytes) -> None:
    """One line."""
    faults, handlers = the_faults()
    line = line_of(Values(data[1:])) if data[:1] == b"\0" else data
    try:
        answered = asyncio.run(answer(line, handlers, at_once))
    except ConnectionAbortedError:
        return
    finally:
        for standing in faults.list():
            faults.clear(standing.number)
    assert answered.error_code != ControlErrorCode.FAILED, answered.message
    written = answered.encode()
    if isinstance(answered.result, FollowedResult):
        answered.result.follow()
    assert len(written) <= MAX_LINE_BYTES
    assert written.count(b"\n") == 1
    ControlAnswer.decode(written)


if __name__ == "__main__":
    failures_are_findings()
    main(one_input)
