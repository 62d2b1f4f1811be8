# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Waiting for completions: one leader per interrupt vector reaps for everybody who waits.

A synchronous caller becomes the leader itself, so no thread hop lies between the device and its result; so does an
event loop, see `ihsm.driver.loop`. A thread is started only when somebody holds a future, whose callbacks must run
without anyone waiting.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from ihsm import forks
from ihsm._native import lib
from ihsm.errors import ForkedError, IhsmError, ResourceError

_log = logging.getLogger(__name__)

HEALTH_INTERVAL_S: Final = 1.0
"""After this long without a completion the leader looks whether the device is still alive."""
FIRST_NAP_S: Final = 20e-6
LONGEST_NAP_S: Final = 1e-3


class Reapable(Protocol):
    """A queue pair, as far as waiting is concerned."""

    @property
    def outstanding(self) -> int:
        """Commands submitted and not completed."""

    def reap(self) -> int:
        """Take what has completed; returns the number of completions."""

    def spin(self, spin_ns: int) -> None:
        """Look for a completion for up to `spin_ns` nanoseconds."""

    def fail(self, error: IhsmError) -> None:
        """Fail everything outstanding."""

    def expire(self, now: float) -> None:
        """Fail what is outstanding past its deadline."""


class CompletionLine:
    """The queues whose completions one vector announces, or that are polled together."""

    def __init__(self, event: int | None, spin_us: float, health: Callable[[], None]) -> None:
        """Make a line without queues.

        Args:
            event: non-blocking eventfd of the vector; None: polled only.
            spin_us: how long a waiting caller looks at the ring before it blocks (or naps), in microseconds.
            health: raises `IhsmError` if the device is gone or faulty.
        """
        self.queues: list[Reapable] = []
        self._event = event
        self.spin_ns = int(spin_us * 1000)
        """How long a waiting caller looks at the ring before it blocks, in nanoseconds."""
        self._health = health
        self.leader = threading.Lock()
        """Who has it takes completions, of all queues: nobody else does. Afterwards it `wake`s the others."""
        self._followers = threading.Condition()
        self._waiting = 0
        self._listeners: set[Callable[[], None]] = set()
        self.watches: dict[Any, Any] = {}
        """The `ihsm.driver.loop.LoopWatch` of each event loop that awaits completions of the line now."""
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._thread_guard = threading.Lock()
        self._work = threading.Event()
        self._forked = False
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): nobody can lead here, so that whoever waits comes to where that is refused.

        A thread that forks in a future's callback still has the lock that it took; whoever takes one gives back that.
        """
        self._forked = True
        self._event = None
        self.leader = threading.Lock()
        self.leader.acquire()
        self._followers = threading.Condition()
        self._waiting = 0
        self._listeners = set()
        self.watches = {}
        self._thread = None
        self._thread_guard = threading.Lock()
        self._stop = threading.Event()
        self._stop.set()
        self._work = threading.Event()

    def _require_ours(self) -> None:
        if self._forked:
            raise ForkedError("wait for a completion")

    @property
    def event(self) -> int | None:
        """Eventfd of the vector; None: completions are polled."""
        return self._event

    def wait(self, done: Callable[[], bool], queue: Reapable, timeout_s: float) -> bool:
        """Reap until `done()`, or let another caller do it; False if `timeout_s` seconds pass first.

        `queue` is the one that the caller expects a completion on. Errors of the device fail all outstanding commands
        of the line rather than being raised here.

        Raises:
            ForkedError: the line is the parent's.
        """
        if done():
            return True
        deadline = time.monotonic() + timeout_s
        while not done():
            leader = self.leader
            if leader.acquire(blocking=False):
                try:
                    self._lead(done, queue, deadline)
                finally:
                    leader.release()
                    self.wake()
            else:
                self._follow(done, deadline)
            if time.monotonic() >= deadline:
                return done()
        return True

    def duplicate_event(self) -> int | None:
        """A descriptor of the caller's own for the vector's eventfd; None: polled, or the line is closed.

        The driver may close its own at any time, and its number be another file's at once.

        Raises:
            ResourceError: too few descriptors.
        """
        if self._event is None:
            return None
        try:
            own = os.dup(self._event)
        except OSError as error:
            if self._stop.is_set():
                return None
            raise ResourceError(f"a descriptor for the event loop: {error.strerror}", error.errno or 0) from None
        if self._stop.is_set():  # the number may have been another file's already
            os.close(own)
            return None
        return own

    def poll(self, event: int | None = None) -> int | None:
        """Reap without waiting; None if another caller is doing it, see `listen`.

        `event` is the caller's own descriptor of the vector's eventfd, to be cleared first.
        """
        leader = self.leader
        if not leader.acquire(blocking=False):
            self._require_ours()
            return None
        try:
            if event is not None:
                lib.ihsm_event_wait(event, 0)
            return self.reap()
        finally:
            leader.release()
            self.wake()

    def _lead(self, done: Callable[[], bool], queue: Reapable, deadline: float) -> None:
        quiet_since, nap_s = time.monotonic(), FIRST_NAP_S
        self.reap()
        while not done():
            if self.spin_ns:
                queue.spin(self.spin_ns)
                if self.reap():
                    quiet_since, nap_s = time.monotonic(), FIRST_NAP_S
                    continue
            now = time.monotonic()
            if now >= deadline:
                return
            if now - quiet_since >= HEALTH_INTERVAL_S:
                quiet_since = now
                self.check()
            elif self._event is not None:
                limit_s = min(deadline - now, HEALTH_INTERVAL_S)
                lib.ihsm_event_wait(self._event, int(limit_s * 1000) + 1)
            else:
                time.sleep(min(nap_s, deadline - now))
                nap_s = min(2 * nap_s, LONGEST_NAP_S)
            if self.reap():
                quiet_since, nap_s = time.monotonic(), FIRST_NAP_S

    def listen(self, wake: Callable[[], None]) -> bool:
        """Have `wake` called once, by any thread, when a leader has reaped something or steps down.

        Returns whether there is a leader now. Without one nobody may ever call: `poll` then.
        """
        with self._followers:
            self._listeners.add(wake)
        return self.leader.locked()

    def unlisten(self, wake: Callable[[], None]) -> None:
        """Forget `listen`, if it has not come true; it may be coming true just now."""
        if self._listeners:
            with self._followers:
                self._listeners.discard(wake)

    def _follow(self, done: Callable[[], bool], deadline: float) -> None:
        with self._followers:
            self._require_ours()
            # Counted before the look: a leader that steps down after it finds somebody to wake.
            self._waiting += 1
            try:
                if not done() and self.leader.locked():
                    self._followers.wait(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
            finally:
                self._waiting -= 1

    def reap(self) -> int:
        """Take what has completed on all queues, as the leader; returns the number of completions."""
        count = 0
        for queue in self.queues:
            count += queue.reap()
        if count:
            self.wake()
        return count

    def wake(self) -> None:
        """Have those who wait look again."""
        if self._waiting or self._listeners:
            with self._followers:
                self._followers.notify_all()
                listeners, self._listeners = self._listeners, set()
            for wake in listeners:
                wake()

    def check(self) -> None:
        """Fail everything outstanding if the device is gone or faulty."""
        try:
            self._health()
        except IhsmError as error:
            _log.error("outstanding commands fail: %s", error)
            self.fail(error)

    def fail(self, error: IhsmError) -> None:
        """Fail everything outstanding on all queues of the line."""
        for queue in self.queues:
            queue.fail(error)
        self.wake()

    def kick(self) -> None:
        """Have whoever waits look again."""
        if self._event is not None:
            os.eventfd_write(self._event, 1)
        self.wake()

    def ensure_thread(self) -> None:
        """Have completions reaped without anybody waiting."""
        self._require_ours()
        self._work.set()
        with self._thread_guard:
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._run, name="ihsm-reaper", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise ResourceError(f"a thread for completions: {error}", errno.EAGAIN) from None
                self._thread = thread

    def _run(self) -> None:
        poller = select.poll()
        if self._event is not None:
            poller.register(self._event, select.POLLIN)
        nap_s = FIRST_NAP_S
        watched = time.monotonic()
        while not self._stop.is_set():
            self._work.clear()
            if not any(queue.outstanding for queue in self.queues):
                self._work.wait(HEALTH_INTERVAL_S)
                continue
            # Only the leader may clear the eventfd: another leader might be about to block on it.
            if self._event is not None:
                poller.poll(int(HEALTH_INTERVAL_S * 1000))
            leader = self.leader
            if leader.acquire(timeout=HEALTH_INTERVAL_S):
                try:
                    if self._event is not None:
                        lib.ihsm_event_wait(self._event, 0)
                    nap_s = FIRST_NAP_S if self.reap() else min(2 * nap_s, LONGEST_NAP_S)
                finally:
                    leader.release()
                    self.wake()
            now = time.monotonic()
            if now - watched >= HEALTH_INTERVAL_S:
                watched = now
                self.check()
                for queue in self.queues:
                    queue.expire(now)
            if self._event is None:
                time.sleep(nap_s)

    def close(self) -> None:
        """Stop the thread."""
        with self._thread_guard:
            self._stop.set()
            thread = self._thread
        self._work.set()
        self.kick()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
