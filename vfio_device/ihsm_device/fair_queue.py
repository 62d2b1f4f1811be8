# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A queue that serves its sources in turn and bounds what each of them may leave waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of several sources; any thread may put and get."""

    def __init__(self, limit: int, is_wanted: Callable[[Item], bool]) -> None:
        """At most `limit` items of one source wait; those that are not wanted any more make room when it is reached."""
        self._limit = limit
        self._is_wanted = is_wanted
        self._waiting: dict[Hashable, deque[Item]] = {}
        """Sources with items, the next one to be served first."""
        self._changed = threading.Condition()
        self._closed = False

    def put(self, source: Hashable, item: Item) -> bool:
        """Add an item; False, and nothing is added, if its source has too many waiting."""
        with self._changed:
            items = self._waiting.setdefault(source, deque())
            if len(items) >= self._limit:
                items = self._waiting[source] = deque(filter(self._is_wanted, items))
            if len(items) >= self._limit:
                return False
            items.append(item)
            self._changed.notify()
            return True

    def get(self) -> Item | None:
        """Wait for the next item, the sources taking turns; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            source = next(iter(self._waiting))
            items = self._waiting.pop(source)
            item = items.popleft()
            if items:
                self._waiting[source] = items
            return item

    def close(self) -> None:
        """End every `get`, those running and those to come; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
