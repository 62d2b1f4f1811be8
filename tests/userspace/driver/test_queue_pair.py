# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Rings: order, wrap, phase, back-pressure, and devices that answer nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.driver.rings import ADMIN_RING, AES_RING, HSM_RING, RingFormat
from ihsm.driver.submission import Submission
from ihsm.errors import CommandTimeoutError, DeviceGoneError, QueueClosedError, QueueProtocolError
from ihsm_abi import doorbells
from ihsm_abi.admin import ADMIN_SQE
from ihsm_abi.aes_queue import GCM_SQE
from support.ring_device import ring_device
from support.waiting import HANG_S, ended

RINGS = [ADMIN_RING, HSM_RING, AES_RING]


def batch(ring: RingFormat, count: int) -> np.ndarray:
    return np.zeros(count, ring.sqe)


@given(
    ring=st.sampled_from(RINGS),
    entries=st.integers(2, 20),
    actions=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1 << 16)), max_size=80),
)
@settings(max_examples=150)
def test_completions_in_any_order_reach_their_submissions(
    ring: RingFormat, entries: int, actions: list[tuple[int, int]]
) -> None:
    with ring_device(ring, entries) as device:
        queue = device.queue
        open_batches: list[tuple[Submission, list[int]]] = []
        stamp = 0
        for action, number in actions:
            room = queue.room
            if action == 0 and room:
                count = number % room + 1
                sqes = batch(ring, count)
                stamps = list(range(stamp, stamp + count))
                stamp += count
                open_batches.append((queue.submit(sqes, HANG_S), stamps))
                device.fetch()
            elif action == 1 and device.pending:
                device.complete(number % len(device.pending), psf=number % 7)
            elif action == 2:
                queue.line.poll()
                for submission, _ in open_batches:
                    assert submission.done() == (submission.remaining == 0)
        while device.pending:
            device.complete()
        queue.line.poll()
        assert queue.outstanding == 0
        for submission, stamps in open_batches:
            assert len(submission.result(0)) == len(stamps)
        assert queue.stray_completions == 0


def test_completions_are_in_the_order_of_submission() -> None:
    with ring_device(AES_RING, 8) as device:
        sqes = np.zeros(6, GCM_SQE)
        sqes["key_id"] = range(100, 106)
        submission = device.queue.submit(sqes, HANG_S)
        device.fetch()
        for index in (5, 0, 3, 1, 0, 0):
            device.post(int(device.pending[index][device.ring.cid]), len=int(device.pending.pop(index)["key_id"]))
        assert submission.result(HANG_S)["len"].tolist() == list(range(100, 106))


def test_a_batch_larger_than_the_ring_goes_in_parts() -> None:
    with ring_device(AES_RING, 8) as device:
        sqes = np.zeros(50, GCM_SQE)
        sqes["key_id"] = range(50)
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                device.fetch()
                while device.pending:
                    device.post(int(device.pending[-1][device.ring.cid]), len=int(device.pending.pop()["key_id"]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert device.queue.submit(sqes, HANG_S).result()["len"].tolist() == list(range(50))
        finally:
            stop.set()
            ended(thread)


def test_a_full_ring_is_waited_for_and_then_times_out() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        first = device.queue.submit(batch(ADMIN_RING, 3), HANG_S)
        assert not device.queue.has_room
        with pytest.raises(CommandTimeoutError, match="no room"):
            device.queue.submit(batch(ADMIN_RING, 1), 0.05)
        device.fetch()
        for _ in range(3):
            device.complete()
        assert len(first.result(HANG_S)) == 3
        device.queue.submit(batch(ADMIN_RING, 1), HANG_S)


def test_the_sq_head_of_the_device_limits_submission() -> None:
    """All command ids are free, yet the device has not fetched: the ring is full."""
    with ring_device(ADMIN_RING, 4) as device:
        device.queue.submit(batch(ADMIN_RING, 3), HANG_S)
        device.fetch()
        for _ in range(3):
            device.complete(sqhd=0)
        device.queue.line.poll()
        assert device.queue.outstanding == 0
        assert not device.queue.has_room


def test_an_unanswered_command_times_out_and_keeps_its_id() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 1), 0.05)
        with pytest.raises(CommandTimeoutError, match="1 of 1"):
            submission.result()
        assert device.queue.outstanding == 1
        device.fetch()
        device.complete()
        device.queue.line.poll()
        assert device.queue.outstanding == 0


def test_unknown_and_repeated_command_ids_are_counted_and_passed_over() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 2), HANG_S)
        device.fetch()
        device.post(6)
        device.post(0xFFFF)
        device.post(int(device.pending[0]["cid"]))
        device.post(int(device.pending[0]["cid"]))
        device.post(int(device.pending[1]["cid"]))
        submission.result(HANG_S)
        assert device.queue.stray_completions == 3
        assert device.queue.outstanding == 0
        device.pending.clear()
        device.queue.submit(batch(ADMIN_RING, 7), HANG_S)
        device.fetch()
        assert sorted(int(entry["cid"]) for entry in device.pending) == list(range(7))


def test_an_impossible_sq_head_fails_what_is_outstanding() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 2), HANG_S)
        device.fetch()
        device.complete(sqhd=4)
        with pytest.raises(QueueProtocolError, match="SQ head 4"):
            submission.result(HANG_S)


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=40))
@settings(max_examples=80)
def test_random_completions_never_hang(cqes: list[bytes]) -> None:
    with ring_device(ADMIN_RING, 8) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 5), 0.01)
        memory = device._memory(device.queue.cq_iova, ADMIN_RING.cqe)
        for cqe in cqes:
            memory.view(np.uint8)[device.tail * 16 : device.tail * 16 + 16] = np.frombuffer(cqe, np.uint8)
            device.tail = (device.tail + 1) % 8
            device.queue.line.poll()
        with contextlib.suppress(CommandTimeoutError, QueueProtocolError):
            submission.result()


def test_closing_fails_what_is_outstanding_and_refuses_more() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 1), HANG_S)
        closing = threading.Thread(target=device.queue.close)
        closing.start()
        with pytest.raises(QueueClosedError):
            submission.result()
        with pytest.raises(QueueClosedError):
            device.queue.submit(batch(ADMIN_RING, 1), HANG_S)
        ended(closing)


def test_an_unhealthy_device_fails_what_is_outstanding() -> None:
    with ring_device(ADMIN_RING, 4) as device:

        def gone() -> None:
            raise DeviceGoneError("gone")

        device.queue.line._health = gone
        with pytest.raises(DeviceGoneError):
            device.queue.submit(batch(ADMIN_RING, 1), HANG_S).result()


def test_futures_complete_without_anybody_waiting() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        seen = threading.Event()
        future = device.queue.submit(batch(ADMIN_RING, 1), HANG_S).future()
        future.add_done_callback(lambda _: seen.set())
        device.fetch()
        device.complete(psf=3)
        assert seen.wait(HANG_S)
        assert future.result(0)["psf"].tolist() == [7]


def test_a_future_past_its_deadline_fails() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        future = device.queue.submit(batch(ADMIN_RING, 1), 0.1).future()
        with pytest.raises(CommandTimeoutError):
            future.result(HANG_S)


def test_futures_serve_asyncio() -> None:
    with ring_device(ADMIN_RING, 8) as device:

        async def run() -> list[int]:
            futures = [device.queue.submit(batch(ADMIN_RING, 1), HANG_S).future() for _ in range(5)]
            device.fetch()
            while device.pending:
                device.complete(len(device.pending) - 1)
            return [len(await asyncio.wrap_future(future)) for future in futures]

        assert asyncio.run(run()) == [1] * 5


def test_a_future_of_something_completed_is_done() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 1), HANG_S)
        device.fetch()
        device.complete()
        submission.result(HANG_S)
        assert submission.future().done()
        assert submission.future() is submission.future()


def test_whoever_asked_is_told_once_that_it_is_done() -> None:
    """A submission that has failed may still be completed."""
    with ring_device(ADMIN_RING, 8) as device:
        submission = device.queue.submit(batch(ADMIN_RING, 1), HANG_S)
        device.fetch()
        told: list[Submission] = []
        submission.when_done(told.append)
        submission.when_done(told.append)
        assert not told
        device.queue.fail(DeviceGoneError("gone"))
        assert told == [submission] * 2
        device.complete()
        device.queue.line.poll()
        assert told == [submission] * 2
        submission.when_done(told.append)
        assert told == [submission] * 3


def test_a_held_bell_is_rung_before_anybody_waits_for_room() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        queue = device.queue
        queue.holds_bell = True
        for _ in range(3):
            queue.submit_one(lambda cid: np.zeros(1, ADMIN_SQE).tobytes(), lambda cid, cqe: cid, HANG_S)
        queue.holds_bell = False
        assert device.fetch() == 0
        with pytest.raises(CommandTimeoutError, match="no room"):
            queue.submit_one(lambda cid: b"", lambda cid, cqe: cid, 0)
        assert device.fetch() == 3
        rung = device.bells.writes
        queue.announce()
        assert device.bells.writes == rung, "there is nothing new to tell"


def test_a_queue_whose_memory_has_gone_is_not_reaped() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        device.queue.submit(batch(ADMIN_RING, 1), HANG_S)
        device.queue.release()
        assert device.queue.reap() == 0


def test_many_waiters_share_one_line() -> None:
    with ring_device(ADMIN_RING, 16) as device:
        stop = threading.Event()
        results: list[int] = []

        def serve() -> None:
            while not stop.is_set():
                device.fetch()
                while device.pending:
                    device.complete(len(device.pending) - 1)

        def use() -> None:
            for _ in range(100):
                results.append(len(device.queue.submit(batch(ADMIN_RING, 2), HANG_S).result()))

        server = threading.Thread(target=serve)
        users = [threading.Thread(target=use) for _ in range(4)]
        server.start()
        for user in users:
            user.start()
        ended(*users)
        stop.set()
        ended(server)
        assert results == [2] * 400


def test_an_entry_that_cannot_be_made_costs_no_command_id() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        arena, bells = device._arena, device.bells.writes
        free = arena.free_bytes

        def build(cid: int) -> bytes:
            return (70_000).to_bytes(2, "little")

        for _ in range(8):
            with pytest.raises(OverflowError):
                device.queue.submit_one(build, lambda cid, cqe: None, 1, held=arena.allocate(64))
        for size in (0, 63, 65):
            with pytest.raises(ValueError, match="assign"):
                device.queue.submit_one(lambda cid, size=size: bytes(size), lambda cid, cqe: None, 1)
        assert (device.queue.outstanding, arena.free_bytes, device.bells.writes) == (0, free, bells)
        device.queue.submit(batch(ADMIN_RING, 3), HANG_S)
        assert device.fetch() == 3


def test_held_buffers_are_released_when_the_device_is_done() -> None:
    with ring_device(ADMIN_RING, 4) as device:
        arena = device._arena
        free = arena.free_bytes
        submission = device.queue.submit(batch(ADMIN_RING, 2), HANG_S, held=arena.allocate(64))
        device.fetch()
        device.complete()
        device.queue.line.poll()
        assert arena.free_bytes == free - 64
        device.complete()
        submission.result(HANG_S)
        assert arena.free_bytes == free
        device.queue.submit(batch(ADMIN_RING, 1), HANG_S, held=arena.allocate(64))
        device.queue.close()
        assert arena.free_bytes == free - 64
        device.queue.restart()
        assert arena.free_bytes == free


def test_a_restart_forgets_completions_that_nobody_has_taken() -> None:
    """A new queue starts with phase 1: what the old one left in the ring would look new."""
    with ring_device(ADMIN_RING, 8) as device:
        old = device.queue.submit(batch(ADMIN_RING, 3), HANG_S)
        device.fetch()
        for _ in range(3):
            device.complete()
        device.queue.restart()
        device.head = device.tail = 0
        device.phase = 1
        new = device.queue.submit(batch(ADMIN_RING, 3), HANG_S)
        device.queue.line.poll()
        assert (device.queue.outstanding, device.queue.stray_completions) == (3, 0)
        assert not new.done()
        assert not old.done()


def test_after_a_restart_of_the_sq_the_cq_goes_on() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        device.queue.submit(batch(ADMIN_RING, 5), HANG_S)
        device.fetch()
        for _ in range(3):
            device.complete()
        device.queue.line.poll()
        device.queue.restart_sq()
        device.head = 0
        device.pending.clear()
        assert device.queue.outstanding == 0
        submission = device.queue.submit(batch(ADMIN_RING, 7), HANG_S)
        device.fetch()
        for _ in range(7):  # over the end of the CQ, whose phase goes on
            device.complete()
        assert len(submission.result(HANG_S)) == 7


def test_rings_are_lent_only_while_nothing_is_outstanding() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        queue = device.queue
        submission = queue.submit(batch(ADMIN_RING, 2), HANG_S)
        with pytest.raises(ValueError, match="2 commands are outstanding"), queue.lent():
            pass
        device.fetch()
        device.complete()
        device.complete()
        submission.result(HANG_S)
        with queue.lent() as rings:
            assert (rings.tail, rings.head, rings.phase) == (2, 2, 1)
            with pytest.raises(QueueClosedError):
                queue.submit(batch(ADMIN_RING, 1), HANG_S)
            rings.tail = rings.head = 5
        device.head = device.tail = 5
        submission = queue.submit(batch(ADMIN_RING, 7), HANG_S)
        assert device.fetch() == 7
        while device.pending:
            device.complete()
        assert len(submission.result(HANG_S)) == 7


def test_a_borrower_that_fails_leaves_the_queue_closed() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        with pytest.raises(KeyError), device.queue.lent():
            raise KeyError
        assert not device.queue.is_open


@pytest.mark.parametrize("entries", [0, 1, 65537])
def test_impossible_sizes_are_refused(entries: int) -> None:
    with pytest.raises(ValueError, match="2 to 65536"), ring_device(ADMIN_RING, entries):
        pass


def test_entries_of_another_size_are_refused() -> None:
    with ring_device(AES_RING, 4) as device, pytest.raises(ValueError, match="128-byte"):
        device.queue.submit(np.zeros(1, ADMIN_SQE), HANG_S)


def test_the_cq_head_is_told_every_half_ring() -> None:
    with ring_device(ADMIN_RING, 8) as device:
        offset = doorbells.cq_head_offset(device.queue.queue_id)
        told = []
        for _ in range(8):
            submission = device.queue.submit(batch(ADMIN_RING, 1), HANG_S)
            device.fetch()
            device.complete()
            submission.result(HANG_S)
            told.append(device.bells.values.get(offset))
        assert told == [None, None, None, 4, 4, 4, 4, 0]
