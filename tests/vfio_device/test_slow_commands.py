# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that wait for slow threads, against a list of lists, and across threads (native/slow.c)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from ihsm_device.commands import Command, RingClass
from ihsm_device.scheduler import SLOW_BACKLOG, Scheduler
from support.rig import EngineRig
from support.waiting import ended, until

QUEUE = 1
SQE = bytes(64)


@contextlib.contextmanager
def rigs(count: int) -> Iterator[tuple[Scheduler, list[EngineRig]]]:
    """Functions of one scheduler, each with a queue that commands can be of."""
    scheduler = Scheduler()
    with contextlib.ExitStack() as opened:
        opened.callback(scheduler.close)
        made = [opened.enter_context(EngineRig(scheduler=scheduler)) for _ in range(count)]
        opened.callback(scheduler.wake)
        for rig in made:
            rig.queue(QUEUE).create()
        yield scheduler, made


def put(rig: EngineRig, number: int, generation: int = 1) -> bool:
    request = number.to_bytes(4, "big")
    return rig.engine.put_slow(Command(rig.engine, RingClass.HSM, QUEUE, generation, number, SQE, request))


def get(scheduler: Scheduler) -> tuple[int, int] | None:
    """Engine and number of the next command."""
    command = scheduler.pull_slow()
    if command is None:
        return None
    number = int.from_bytes(command.request, "big")
    assert command.cid == number
    return id(command.engine), number


@given(st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=60))
def test_functions_take_turns(actions: list[int | None]) -> None:
    """A number puts a command of that function, None gets one."""
    with rigs(4) as (scheduler, made):
        model: list[tuple[int, list[int]]] = []
        for number, function in enumerate(actions):
            if function is not None:
                name = id(made[function].engine)
                waiting = next((items for owner, items in model if owner == name), None)
                if waiting is None:
                    model.append((name, waiting := []))
                assert put(made[function], number)
                waiting.append(number)
            elif model:
                name, items = model.pop(0)
                assert get(scheduler) == (name, items.pop(0))
                if items:
                    model.append((name, items))


def test_commands_whose_queue_has_gone_make_room() -> None:
    with rigs(2) as (scheduler, made):
        full, other = made
        assert all(put(full, number) for number in range(SLOW_BACKLOG))
        assert not put(full, 5000)
        assert put(other, 5001)
        assert full.engine.delete_sq(QUEUE)
        full.engine.delete_cq(QUEUE)
        full.queue(QUEUE).create()
        assert put(full, 5002, generation=3)
        # What went with its queue is not handed out any more.
        assert {get(scheduler), get(scheduler)} == {(id(other.engine), 5001), (id(full.engine), 5002)}


def test_a_closed_function_leaves_nothing_behind() -> None:
    with rigs(2) as (scheduler, made):
        assert put(made[0], 1)
        assert put(made[1], 2)
        made[0].engine.close()
        assert get(scheduler) == (id(made[1].engine), 2)


def test_wake_ends_waiting_threads() -> None:
    with rigs(1) as (scheduler, made):
        results: list[tuple[int, int] | None] = []
        threads = [threading.Thread(target=lambda: results.append(get(scheduler))) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert put(made[0], 1)
        until(lambda: results, "a command that was put")
        scheduler.wake()
        ended(*threads)
        assert sorted(results, key=str) == [(id(made[0].engine), 1), None, None, None]
        assert get(scheduler) is None
