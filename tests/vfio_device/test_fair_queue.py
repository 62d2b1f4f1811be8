# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The fair queue against a list of lists, and across threads."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from ihsm_device.fair_queue import FairQueue
from support.waiting import ended, until


@given(st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=60))
def test_sources_take_turns(actions: list[int | None]) -> None:
    """A number puts an item of that source, None gets one."""
    queue: FairQueue[tuple[int, int]] = FairQueue(limit=5, is_wanted=lambda item: True)
    model: list[tuple[int, list[int]]] = []
    for number, source in enumerate(actions):
        if source is not None:
            waiting = next((items for name, items in model if name == source), None)
            if waiting is None:
                model.append((source, waiting := []))
            assert queue.put(source, (source, number)) == (len(waiting) < 5)
            if len(waiting) < 5:
                waiting.append(number)
        elif model:
            name, items = model.pop(0)
            assert queue.get() == (name, items.pop(0))
            if items:
                model.append((name, items))


def test_unwanted_items_make_room() -> None:
    dead: set[int] = set()
    queue: FairQueue[int] = FairQueue(limit=3, is_wanted=lambda item: item not in dead)
    assert all(queue.put("a", item) for item in (1, 2, 3))
    assert not queue.put("a", 4)
    assert queue.put("b", 5)
    dead.update((1, 3))
    assert queue.put("a", 6)
    assert [queue.get() for _ in range(3)] == [2, 5, 6]


def test_close_ends_waiting_threads() -> None:
    queue: FairQueue[int] = FairQueue(limit=3, is_wanted=lambda item: True)
    results: list[int | None] = []
    threads = [threading.Thread(target=lambda: results.append(queue.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    queue.put("a", 1)
    until(lambda: results, "an item that was put")
    queue.close()
    ended(*threads)
    assert sorted(results, key=str) == [1, None, None, None]
    assert queue.get() is None
