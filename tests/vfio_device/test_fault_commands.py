# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The control socket's commands for faults: what they refuse, and who is woken by which hit."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ihsm.control import ControlClient
from ihsm.errors import FaultNotFoundError, FaultNotHitError
from ihsm_abi.control import MAX_FAULT_WAIT_S, SUFFIX, ControlCommand, ControlErrorCode, ControlRefusal
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Fault, StandingFault
from ihsm_device.control_socket import ControlServer, FollowedResult
from ihsm_device.fault_commands import FaultCommands
from ihsm_device.faults import TooManyFaultsError, UnknownFaultError
from ihsm_device.socket_paths import listen
from support.waiting import HANG_S, ended, until, until_async

MOST = 5
"""Faults that there is room for."""


class Faults:
    """Faults that are hit when the test says so, and who waits for them."""

    def __init__(self) -> None:
        self.standing: dict[int, tuple[Fault, int]] = {}
        self.added = 0
        self.looks = 0
        self.tell: Callable[[], None] = lambda: None
        self.is_returning = False
        self.running = threading.Lock()

    def on_hit(self, callback: Callable[[], None]) -> None:
        self.tell = callback

    def add(self, fault: Fault) -> int:
        if len(self.standing) == MOST:
            raise TooManyFaultsError(f"the function shows {MOST} faults already")
        self.added += 1
        self.standing[self.added] = fault, 0
        return self.added

    def list(self) -> list[StandingFault]:
        return [StandingFault(number, fault, hits, None) for number, (fault, hits) in self.standing.items()]

    def clear(self, number: int | None) -> int:
        cleared = list(self.standing) if number is None else [number]
        for each in cleared:
            self.hits(each)
            del self.standing[each]
        return len(cleared)

    def seen(self) -> list[StandingFault]:
        return [entry for entry in self.list() if self.is_never(entry.number) and entry.hits]

    def is_never(self, number: int) -> bool:
        return self.standing[number][0].action is FaultAction.NEVER

    def hits(self, number: int) -> int:
        self.looks += 1
        if number not in self.standing:
            raise UnknownFaultError(f"no fault {number}")
        return self.standing[number][1]

    def hit(self, number: int, times: int = 1) -> None:
        """On whatever thread the device has."""
        for _ in range(times):
            fault, hits = self.standing[number]
            self.standing[number] = fault, hits + 1
            self.tell()


DROP = {"action": "drop-completion"}


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def commands(faults: Faults) -> FaultCommands:
    return FaultCommands(faults)  # type: ignore[arg-type]


def call(commands: FaultCommands, name: ControlCommand, **arguments: Any) -> Any:
    """The result of a command, as when it has been written to the client."""
    result = commands.handlers[name](arguments)
    if isinstance(result, FollowedResult):
        result.follow()
    return result


def test_nothing_pauses_the_process_until_the_fault_is_told(faults: Faults, commands: FaultCommands) -> None:
    result = commands.handlers[ControlCommand.FAULT_ADD]({"action": "pause-process", "parameters": {"ms": 1}})
    assert faults.running.locked()
    assert isinstance(result, FollowedResult)
    assert result == {"id": 1}
    result.follow()
    assert not faults.running.locked()


def test_a_fault_that_is_refused_holds_no_pause_up(faults: Faults, commands: FaultCommands) -> None:
    for _ in range(MOST):
        call(commands, ControlCommand.FAULT_ADD, **DROP)
    for refused, wrong in ((ControlRefusal, DROP), (ValueError, {"action": "dance"})):
        with pytest.raises(refused):
            call(commands, ControlCommand.FAULT_ADD, **wrong)
        assert not faults.running.locked()


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        (ControlCommand.FAULT_ADD, {}, "action: None is none of drop-completion"),
        (ControlCommand.FAULT_ADD, {"action": "dance"}, "action: 'dance' is none of"),
        (ControlCommand.FAULT_ADD, {"action": "wrong-cid"}, "parameters.cid: wrong-cid needs it"),
        (ControlCommand.FAULT_ADD, DROP | {"when": {"nth": 0}}, "when.nth: 0 is outside"),
        (ControlCommand.FAULT_ADD, DROP | {"queue": 1}, "queue: unknown"),
        (ControlCommand.FAULT_LIST, {"id": 1}, "id: unknown; no argument expected"),
        (ControlCommand.FAULT_CLEAR, {"ID": 1}, "ID: unknown; id expected"),
        (ControlCommand.FAULT_CLEAR, {"id": None}, "id: None is no integer"),
        (ControlCommand.FAULT_CLEAR, {"id": 0}, "id: 0 is outside"),
        (ControlCommand.FAULT_WAIT, {}, "id: None is no integer"),
        (ControlCommand.FAULT_WAIT, {"id": True}, "id: True is no integer"),
        (ControlCommand.FAULT_WAIT, {"id": 1, "hits": 0}, "hits: 0 is outside"),
        (ControlCommand.FAULT_WAIT, {"id": 1, "timeout_s": "60"}, "timeout_s: '60' is no number"),
        (ControlCommand.FAULT_WAIT, {"id": 1, "timeout_s": -1}, "timeout_s: -1 is outside"),
        (ControlCommand.FAULT_WAIT, {"id": 1, "timeout_s": 10**400}, "timeout_s: 1000"),
        (ControlCommand.FAULT_WAIT, {"id": 1, "timeout": 5}, "timeout: unknown; id, hits, timeout_s expected"),
    ],
)
def test_wrong_arguments_are_named(
    commands: FaultCommands, command: ControlCommand, arguments: dict[str, Any], text: str
) -> None:
    async def main() -> None:
        outcome = commands.handlers[command](arguments)
        if not isinstance(outcome, dict):
            await outcome

    with pytest.raises(ValueError, match=re.escape(text)):
        asyncio.run(main())


def test_what_is_added_is_listed_until_it_is_cleared(commands: FaultCommands) -> None:
    given = {"action": "delay-completion", "match": {"queue": 1}, "when": {"nth": 2}, "parameters": {"ms": 5}}
    assert [call(commands, ControlCommand.FAULT_ADD, **each) for each in (given, DROP)] == [{"id": 1}, {"id": 2}]
    first, second = call(commands, ControlCommand.FAULT_LIST)["faults"]
    assert first == {"id": 1, "fault": given, "hits": 0, "left": None}
    assert second["fault"] == DROP
    text = "delay-completion queue=1 ms=5 nth=2"
    assert commands.status()[0] == {"id": 1, "text": text, "hits": 0, "left": None}
    assert call(commands, ControlCommand.FAULT_CLEAR, id=1) == {"cleared": 1}
    with pytest.raises(ControlRefusal, match="no fault 1") as caught:
        call(commands, ControlCommand.FAULT_CLEAR, id=1)
    assert caught.value.code == ControlErrorCode.NO_SUCH_FAULT
    assert call(commands, ControlCommand.FAULT_CLEAR) == {"cleared": 1}
    assert call(commands, ControlCommand.FAULT_CLEAR) == {"cleared": 0}
    assert call(commands, ControlCommand.FAULT_LIST) == {"faults": []}


def test_one_fault_too_many_is_refused(commands: FaultCommands) -> None:
    for _ in range(MOST):
        call(commands, ControlCommand.FAULT_ADD, **DROP)
    with pytest.raises(ControlRefusal, match=f"{MOST} faults already; clear some") as caught:
        call(commands, ControlCommand.FAULT_ADD, **DROP)
    assert caught.value.code == ControlErrorCode.TOO_MANY_FAULTS
    call(commands, ControlCommand.FAULT_CLEAR, id=2)
    assert call(commands, ControlCommand.FAULT_ADD, **DROP) == {"id": MOST + 1}


def test_a_hit_wakes_those_who_wait_for_it(commands: FaultCommands, faults: Faults) -> None:
    async def main() -> None:
        for _ in range(2):
            call(commands, ControlCommand.FAULT_ADD, **DROP)
        first, second, other = (
            asyncio.ensure_future(call(commands, ControlCommand.FAULT_WAIT, timeout_s=MAX_FAULT_WAIT_S, **arguments))
            for arguments in ({"id": 1}, {"id": 1, "hits": 3}, {"id": 2})
        )
        await until_async(lambda: faults.looks >= 3, "three who wait")
        threading.Thread(target=faults.hit, args=(1,)).start()
        assert await asyncio.wait_for(first, HANG_S) == {"id": 1, "hits": 1, "reached": True}
        assert not second.done()
        threading.Thread(target=faults.hit, args=(1, 2)).start()
        assert await asyncio.wait_for(second, HANG_S) == {"id": 1, "hits": 3, "reached": True}
        assert not other.done()
        call(commands, ControlCommand.FAULT_CLEAR)
        with pytest.raises(ControlRefusal, match="no fault 2"):
            await asyncio.wait_for(other, HANG_S)

    asyncio.run(main())


def test_what_was_hit_before_is_there_at_once(commands: FaultCommands, faults: Faults) -> None:
    call(commands, ControlCommand.FAULT_ADD, **DROP)
    faults.hit(1, 2)
    found = asyncio.run(call(commands, ControlCommand.FAULT_WAIT, id=1, hits=2, timeout_s=0))
    assert found == {"id": 1, "hits": 2, "reached": True}
    found = asyncio.run(call(commands, ControlCommand.FAULT_WAIT, id=1, hits=3, timeout_s=0))
    assert found == {"id": 1, "hits": 2, "reached": False}


def test_any_number_of_hits_while_the_loop_is_busy_wakes_once(commands: FaultCommands, faults: Faults) -> None:
    """A hit is told on the device's own threads: it must cost them little, and the loop not be flooded."""

    async def main() -> None:
        call(commands, ControlCommand.FAULT_ADD, **DROP)
        wait = asyncio.ensure_future(
            call(commands, ControlCommand.FAULT_WAIT, id=1, hits=100_001, timeout_s=MAX_FAULT_WAIT_S)
        )
        await until_async(lambda: faults.looks, "one who waits")
        for _ in range(2):
            looks = faults.looks
            faults.hit(1, 50_000)
            await until_async(lambda looks=looks: faults.looks > looks, "another look")
            assert faults.looks == looks + 1
        faults.hit(1)
        assert (await asyncio.wait_for(wait, HANG_S))["hits"] == 100_001

    asyncio.run(main())


@pytest.fixture
def path(socket_folder: Path, commands: FaultCommands) -> Iterator[Path]:
    """Socket of a function that has these faults, of which only the control socket is there."""
    path = socket_folder / "f.sock"
    server = ControlServer()
    server.add(listen(path.with_name(path.name + SUFFIX))[0], commands.handlers)
    server.start()
    yield path
    server.stop()


def test_clients_wait_beside_each_other(path: Path, faults: Faults) -> None:
    seen: list[int] = []

    def wait(number: int, hits: int) -> None:
        with ControlClient(path) as client:
            seen.append(client.wait_fault(number, hits, HANG_S))

    with ControlClient(path, timeout_s=HANG_S) as client:
        number = client.add_fault(Fault.from_json(DROP))
        threads = [threading.Thread(target=wait, args=(number, hits), daemon=True) for hits in (1, 1, 2)]
        for thread in threads:
            thread.start()
        until(lambda: faults.looks >= 3, "three who wait")
        assert [entry.number for entry in client.faults()] == [number]
        faults.hit(number)
        until(lambda: seen == [1, 1], "two of them woken")
        faults.hit(number)
        ended(*threads)
    assert seen == [1, 1, 2]


def test_what_ends_a_client_s_wait(path: Path, faults: Faults) -> None:
    with ControlClient(path, timeout_s=HANG_S) as client:
        number = client.add_fault(Fault.from_json(DROP))
        with pytest.raises(FaultNotHitError, match=rf"fault {number}: 0 of 2 hits within 0 s"):
            client.wait_fault(number, 2, 0)
        thread = threading.Thread(target=lambda: (until(lambda: faults.looks > 2, "a wait"), clear(path)))
        thread.start()
        with pytest.raises(FaultNotFoundError, match=f"there is no fault {number}"):
            client.wait_fault(number, timeout_s=HANG_S)
        ended(thread)
        with pytest.raises(FaultNotFoundError):
            client.clear_fault(number)


def clear(path: Path) -> None:
    with ControlClient(path) as client:
        assert client.clear_faults() == 1


NEVER = {"action": "never", "match": {"queue": 0, "opcode": 0}}


def test_a_command_that_must_not_be_seen_ends_every_wait(commands: FaultCommands, faults: Faults) -> None:
    never = call(commands, ControlCommand.FAULT_ADD, **NEVER)["id"]
    other = call(commands, ControlCommand.FAULT_ADD, **DROP)["id"]

    async def waits() -> list[BaseException | Any]:
        waiting = [asyncio.ensure_future(call(commands, ControlCommand.FAULT_WAIT, id=each)) for each in (never, other)]
        await until_async(lambda: faults.looks == 2, "both to wait")
        assert not any(task.done() for task in waiting)
        faults.hit(never)
        return await asyncio.gather(*waiting, return_exceptions=True)

    for ended_by in asyncio.run(waits()):
        assert isinstance(ended_by, ControlRefusal)
        assert ended_by.code is ControlErrorCode.COMMAND_SEEN
        assert str(ended_by) == f"fault {never}, never queue=0 opcode=0: such a command came, 1 hits"
    assert call(commands, ControlCommand.FAULT_CLEAR, id=other) == {"cleared": 1}
    cleared = call(commands, ControlCommand.FAULT_CLEAR)
    assert cleared["cleared"] == 1
    assert len(cleared["seen"]) == 1


def test_one_that_does_not_come_is_waited_for_in_vain(commands: FaultCommands) -> None:
    never = call(commands, ControlCommand.FAULT_ADD, **NEVER)["id"]
    result = asyncio.run(call(commands, ControlCommand.FAULT_WAIT, id=never, timeout_s=0))
    assert result == {"id": never, "hits": 0, "reached": True}


def test_clearing_waits_until_a_function_is_back(commands: FaultCommands, faults: Faults) -> None:
    """Who has it cleared finds it there."""
    call(commands, ControlCommand.FAULT_ADD, action="remove-function")
    faults.is_returning = True

    async def clear() -> Any:
        task = asyncio.ensure_future(call(commands, ControlCommand.FAULT_CLEAR))
        await until_async(lambda: bool(commands._waiting), "one who waits")
        assert not task.done()
        faults.is_returning = False
        faults.tell()
        return await task

    assert asyncio.run(clear()) == {"cleared": 1}
