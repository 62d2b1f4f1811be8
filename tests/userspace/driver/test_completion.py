# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting by itself: who reaps, what the others do meanwhile, and what ends a wait without a completion."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ihsm.driver.completion import HEALTH_INTERVAL_S, CompletionLine
from ihsm.errors import DeviceGoneError, IhsmError, ResourceError
from support.descriptors import open_descriptors
from support.waiting import HANG_S, ended


class Queue:
    """A queue with completions as told; `arrive` is called by each look at the ring."""

    def __init__(self, arrive: Callable[[], None] = lambda: None) -> None:
        self.arrive = arrive
        self.waiting = 0
        self.taken = 0
        self.reaps = 0
        self.failed: list[IhsmError] = []
        self.outstanding = 1

    def reap(self) -> int:
        self.reaps += 1
        count, self.waiting = self.waiting, 0
        self.taken += count
        return count

    def spin(self, spin_ns: int) -> None:
        self.arrive()

    def fail(self, error: IhsmError) -> None:
        self.failed.append(error)

    def expire(self, now: float) -> None:
        pass


def line(*queues: Queue, spin_us: float = 1.0, health: Callable[[], None] = lambda: None) -> CompletionLine:
    made = CompletionLine(None, spin_us, health)
    made.queues += queues
    return made


def test_what_is_done_is_not_reaped_for() -> None:
    queue = Queue()
    assert line(queue).wait(lambda: True, queue, HANG_S)
    assert queue.reaps == 0


def test_a_leader_reaps_all_queues_of_its_line() -> None:
    mine, other = Queue(), Queue()
    mine.arrive = lambda: setattr(mine, "waiting", 1)
    other.waiting = 3
    assert line(mine, other).wait(lambda: mine.taken > 0, mine, HANG_S)
    assert (mine.taken, other.taken) == (1, 3)


def test_a_completion_found_by_spinning_is_not_looked_for_again() -> None:
    queue = Queue()
    queue.arrive = lambda: setattr(queue, "waiting", 1)
    assert line(queue).wait(lambda: queue.taken > 0, queue, HANG_S)
    assert queue.reaps == 2  # an empty look before the spin, and the one after it


def test_a_wait_without_completions_ends_with_its_time() -> None:
    queue = Queue()
    assert not line(queue, spin_us=0).wait(lambda: False, queue, 0.01)
    assert not line(queue).wait(lambda: False, queue, 0)


def test_a_device_that_is_gone_fails_the_queues_of_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at its health comes after a second without completions, which pass at once here."""
    error = DeviceGoneError("gone")

    def health() -> None:
        raise error

    first, second = Queue(), Queue()
    shared = line(first, second, health=health)
    clock = iter(range(1000))
    monkeypatch.setattr("ihsm.driver.completion.time.monotonic", lambda: next(clock) * HEALTH_INTERVAL_S)
    assert shared.wait(lambda: bool(first.failed), first, HANG_S)
    assert first.failed == second.failed == [error]


def test_completions_put_the_look_at_the_health_off(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[None] = []
    queue = Queue()
    queue.arrive = lambda: setattr(queue, "waiting", 1)
    shared = line(queue, health=lambda: looks.append(None))
    clock = iter(range(100_000))
    monkeypatch.setattr("ihsm.driver.completion.time.monotonic", lambda: next(clock) * HEALTH_INTERVAL_S / 2)
    assert shared.wait(lambda: queue.taken >= 20, queue, 1e9)
    assert not looks


class NoWaiting(threading.Condition):
    """A condition nobody may wait for."""

    def wait(self, timeout: float | None = None) -> bool:
        raise AssertionError("waits for a leader that is no longer there")


def test_nobody_waits_for_a_leader_that_has_gone() -> None:
    """Whoever found the place taken looks again: the leader may have woken its followers before they came."""
    queue = Queue()
    shared = line(queue)
    shared._followers = NoWaiting()
    shared._follow(lambda: False, math.inf)


def test_who_follows_is_counted_before_the_leader_is_looked_at() -> None:
    """Otherwise a leader that steps down just then would wake nobody, and nobody would lead."""
    queue = Queue()
    shared = line(queue)
    counted: list[int] = []

    class Leader:
        def locked(self) -> bool:
            counted.append(shared._waiting)
            return False

    shared.leader = Leader()  # type: ignore[assignment]
    shared._follow(lambda: False, math.inf)
    assert counted == [1]
    assert shared._waiting == 0


def test_who_listens_is_called_once_by_what_is_reaped_or_by_a_leader_that_goes() -> None:
    queue = Queue()
    shared = line(queue)
    calls: list[str] = []
    assert not shared.listen(lambda: calls.append("reaped"))
    queue.waiting = 1
    assert shared.poll() == 1
    assert shared.poll() == 0
    assert calls == ["reaped"]
    shared.listen(lambda: calls.append("gone"))
    with shared.leader:
        assert shared.listen(lambda: calls.append("gone as well"))
    shared.poll()
    assert sorted(calls) == ["gone", "gone as well", "reaped"]


def test_who_listens_no_more_is_not_called() -> None:
    queue = Queue()
    shared = line(queue)
    calls: list[None] = []
    wake: Callable[[], None] = lambda: calls.append(None)  # noqa: E731
    shared.listen(wake)
    shared.listen(wake)
    shared.unlisten(wake)
    shared.poll()
    assert not calls


def test_a_duplicate_of_the_event_is_the_callers_own() -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    shared = CompletionLine(event, 0, lambda: None)
    own = shared.duplicate_event()
    assert own is not None
    os.eventfd_write(event, 5)
    os.close(event)
    shared.poll(own)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(own)
    os.close(own)
    with pytest.raises(ResourceError, match="Bad file descriptor"):
        shared.duplicate_event()
    shared._stop.set()
    assert shared.duplicate_event() is None
    assert line().duplicate_event() is None


def test_a_closed_line_gives_no_descriptor_of_another_file() -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    shared = CompletionLine(event, 0, lambda: None)
    shared.close()
    before = open_descriptors()
    assert shared.duplicate_event() is None
    assert open_descriptors() == before
    os.close(event)


def test_followers_are_woken_by_what_the_leader_reaps() -> None:
    queue = Queue()
    leading, following = threading.Event(), threading.Event()
    shared = line(queue)

    def arrive() -> None:
        leading.set()
        if following.is_set() and shared._waiting:
            queue.waiting = 1

    queue.arrive = arrive
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(shared.wait(lambda: queue.taken > 0, queue, HANG_S)))
        for _ in range(2)
    ]
    threads[0].start()
    assert leading.wait(HANG_S)
    threads[1].start()
    following.set()
    ended(*threads)
    assert results == [True, True]
    assert queue.taken == 1


def test_polling_leaves_the_reaping_to_the_leader() -> None:
    queue = Queue()
    shared = line(queue)
    queue.waiting = 2
    with shared.leader:
        assert shared.poll() is None
    assert queue.reaps == 0
    assert shared.poll() == 2
    assert shared.poll() == 0


def test_a_kick_wakes_whoever_blocks_on_the_vector() -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        queue: Any = Queue()
        done = threading.Event()
        shared = CompletionLine(event, 0, lambda: None)
        shared.queues.append(queue)
        waiter = threading.Thread(target=shared.wait, args=(done.is_set, queue, HANG_S))
        waiter.start()
        done.set()
        shared.kick()
        ended(waiter)
    finally:
        os.close(event)
