# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Queue pairs as a driver may know them: what it was told of, and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ihsm.trace.commands import form_of
from ihsm.trace.records import Completion, Queue
from ihsm.trace.rules.seen import Seen


def ahead(begin: int, end: int, entries: int) -> int:
    """How far `end` is ahead of `begin` in a ring."""
    return (end - begin) % entries


@dataclass(slots=True)
class Submission:
    """A submission ring."""

    entries: int | None
    """None: not known, since the recording began later."""
    base: int | None
    """I/O address."""
    created: Seen
    tail: int | None = 0
    """As rung."""
    told_head: int | None = 0
    """As the last completion has it."""
    unfetched: int = 0
    """Entries behind a doorbell that have not been fetched."""
    rung: Seen | None = None
    deleting: Seen | None = None
    """A DELETE_SQ that was fetched."""


@dataclass(slots=True)
class Completions:
    """A completion ring, read as a driver reads it: an entry is there if its phase is the one that is awaited."""

    entries: int | None
    base: int | None
    vector: int | None
    created: Seen
    head: int | None = 0
    phase: int | None = 1
    """The one that is awaited at the head; None: not known."""
    slots: dict[int, Seen] = field(default_factory=dict)
    """The last completion in each slot."""
    ahead: tuple[int, int] = (0, 1)
    """Slot and phase of the first entry from the head on that is not there yet."""
    waiting: deque[Seen] = field(default_factory=deque)
    """Completions that a driver at the head finds there, one behind the other."""
    signalled: Seen | None = None
    """The first interrupt since the head last moved while completions waited."""
    quiet: int = 0
    """How many of those that wait came after the last interrupt."""
    rung: Seen | None = None
    deleting: Seen | None = None

    def post(self, seen: Seen) -> list[Seen]:
        """Take a completion; those that a driver finds there now and did not before."""
        slot, _ = _place(seen)
        self.slots[slot] = seen
        found: list[Seen] = []
        if self.phase is None or self.entries is None:
            found.append(seen)
        else:
            while self.visible(*self.ahead) and len(found) < self.entries:
                found.append(self.slots[self.ahead[0]])
                self.ahead = self._after(*self.ahead)
        self.waiting.extend(found)
        self.quiet += len(found)
        return found

    def _after(self, slot: int, phase: int) -> tuple[int, int]:
        """The next slot, and the phase that is awaited there."""
        return (0, phase ^ 1) if slot + 1 == self.entries else (slot + 1, phase)

    def _catch_up(self, value: int) -> int:
        """Learn the phase of a ring that was there before the recording, from a head behind its last completion."""
        if not self.waiting or not self.entries:
            return 0
        slot, phase = _place(self.waiting[-1])
        if (slot + 1) % self.entries != value:
            return 0
        self.head, self.phase = value, phase ^ (value == 0)
        self.ahead = self.head, self.phase
        return len(self.waiting)

    def visible(self, head: int, phase: int) -> bool:
        """Whether a driver that stands at `head` and awaits `phase` finds an entry there."""
        return head in self.slots and _place(self.slots[head]) == (head, phase)

    def steps_to(self, value: int) -> Iterator[tuple[int, int]]:
        """Slot and awaited phase of each entry between the head and `value`."""
        if self.head is None or self.phase is None or self.entries is None:
            return
        head, phase = self.head, self.phase
        while head != value:
            yield head, phase
            head, phase = self._after(head, phase)

    def advance(self, value: int) -> None:
        """Move the head."""
        if self.phase is None:
            passed = self._catch_up(value)
        else:
            steps = list(self.steps_to(value))
            passed = len(steps)
            if steps:
                _, self.phase = self._after(*steps[-1])
        self.head = value
        if passed > len(self.waiting) and self.phase is not None:
            self.ahead = value, self.phase
        for _ in range(min(passed, len(self.waiting))):
            self.waiting.popleft()
        self.quiet = min(self.quiet, len(self.waiting))
        self.signalled = None


@dataclass(slots=True)
class Pair:
    """A queue pair."""

    id: int
    sq: Submission | None = None
    cq: Completions | None = None
    outstanding: dict[int, Seen] = field(default_factory=dict)
    """Entries that were fetched and not answered, by command id."""
    faulty: set[int] = field(default_factory=set)
    """Command ids of admin commands that a fault has hit."""
    used: bool = False
    """A command was fetched."""
    idle_since: Seen | None = None
    """With this all that was fetched had been answered, and the driver told of it."""
    last_delete: Seen | None = None
    """The DELETE_SQ that ended the SQ before."""
    last_idle: Seen | None = None
    """`idle_since` at that time."""
    idle_s: float = 0.0
    """Seconds between the two."""

    @property
    def sqe_bytes(self) -> int:
        """Size of a submission entry."""
        return int(form_of(self.id).sqe.itemsize)

    @property
    def cqe_bytes(self) -> int:
        """Size of a completion entry."""
        return int(form_of(self.id).cqe.itemsize)

    def settle(self, seen: Seen) -> None:
        """Note whether the driver has nothing to wait for, now that `seen` has happened."""
        waits = self.outstanding or (self.cq is not None and self.cq.quiet)
        if waits or not self.used:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = seen

    def rings(self) -> Iterator[tuple[str, int, int, Seen]]:
        """Name, I/O address, bytes and creation of the rings whose places are known."""
        for name, ring, size in (("SQ", self.sq, self.sqe_bytes), ("CQ", self.cq, self.cqe_bytes)):
            if ring is not None and ring.base is not None and ring.entries is not None:
                yield f"{name} {self.id}", ring.base, ring.entries * size, ring.created


def _place(seen: Seen) -> tuple[int, int]:
    """Slot and phase of a completion."""
    assert isinstance(seen.record, Completion)
    return seen.record.slot, seen.record.phase


def pair_of(seen: Seen, record: Queue) -> Pair:
    """A pair that was there when recording began."""
    pair = Pair(record.queue)
    if record.sq_live:
        pair.sq = Submission(record.sq_entries, None, seen, record.sq_tail, None)
        pair.sq.unfetched = ahead(record.sq_head, record.sq_tail, record.sq_entries) if record.sq_entries else 0
    if record.cq_live:
        # Its phase is known from the first completion on.
        pair.cq = Completions(record.cq_entries, None, record.vector, seen, record.cq_head, None)
    return pair
