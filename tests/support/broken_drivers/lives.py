# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Things used after their end, ended twice, or never; and crashes."""

from __future__ import annotations

import errno
import json
from typing import Any, ClassVar

from ihsm_kmod.kernel.completion import Completion, wait_for_completion
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.idr import Ida, ida_alloc, ida_free
from ihsm_kmod.kernel.kref import Kref, kref_get, kref_put
from ihsm_kmod.kernel.module import Module
from ihsm_kmod.kernel.workqueue import (
    DelayedWork,
    Work,
    Workqueue,
    alloc_workqueue,
    cancel_work_sync,
    destroy_workqueue,
    flush_work,
    queue_delayed_work,
    schedule_delayed_work,
    schedule_work,
)


def wait_for_nobody() -> None:
    wait_for_completion(Completion())  # BUG


def free_twice() -> None:
    ida = Ida()
    number = ida_alloc(ida)
    ida_free(ida, number)
    ida_free(ida, number)  # BUG


def put_twice() -> None:
    kref = Kref(lambda: None)
    kref_put(kref)
    kref_put(kref)  # BUG


def get_what_is_gone() -> None:
    kref = Kref(lambda: None)
    kref_put(kref)
    kref_get(kref)  # BUG


def null_pointer() -> None:
    controller: Any = None
    controller.abort()  # BUG


def null_element() -> None:
    queues: Any = None
    queues[3] = 0  # BUG


def divide() -> int:
    submitted = 0
    return 1000 // submitted  # BUG


def endless() -> None:
    endless()  # BUG


def wrong_key() -> int:
    return {"a": 1}["b"]  # BUG


def crash_below_a_library() -> None:
    json.dumps(object())  # BUG


def crash_as_work() -> Work:
    work = Work(null_pointer)
    schedule_work(work)
    return work


def refuse() -> None:
    raise Errno(errno.EIO)  # BUG


def refuse_as_work() -> Work:
    work = Work(refuse)
    schedule_work(work)
    return work


class WaitsForItself:
    """A work that flushes or cancels itself."""

    def __init__(self) -> None:
        self.flushed = Work(self.flush)
        self.cancelled = Work(self.cancel)

    def flush(self) -> None:
        flush_work(self.flushed)  # BUG

    def cancel(self) -> None:
        cancel_work_sync(self.cancelled)  # BUG


class LeavesWork(Module):
    """A module that forgets its delayed work."""

    name: ClassVar[str] = "leaves_work"

    def init(self) -> None:
        self.work = DelayedWork(self.look)
        schedule_delayed_work(self.work, 250)  # BUG

    def look(self) -> None:
        """Would run when the module is gone."""


def destroy_with_delayed_work() -> Workqueue:
    queue = alloc_workqueue("own")
    queue_delayed_work(queue, DelayedWork(divide), 250)  # BUG
    destroy_workqueue(queue)
    return queue
