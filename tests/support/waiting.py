# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How tests wait: for a condition, never for a time.

A test that asserts how long something takes, or that sleeps until something should be over, fails on a machine that has
other things to do. The bound here is no judgement: it turns a hang into a failure that names what was waited for.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

HANG_S: Final = float(os.environ.get("IHSM_TEST_HANG_S", "120"))
"""Far above what anything in a test takes, however busy the machine is; also the value for timeouts of the product
that a test does not want to see expire. Shorter where hangs are expected: `scripts/mutants`."""
GUEST_HANG_S: Final = 1000.0
"""The same for what a guest does, whose processor is a program on ours."""
LOOK_EVERY_S: Final = 0.001
MOMENT_S: Final = 0.02


class HangError(AssertionError):
    """What a test waits for does not come."""


def first(look: Callable[[], T | None], what: str, *, every_s: float = LOOK_EVERY_S) -> T:
    """The first thing other than None that `look` gives; `every_s` is 0 where a round trip is what is waited for.

    Raises:
        HangError: nothing came within HANG_S.
    """
    end = time.monotonic() + HANG_S
    while (found := look()) is None:
        if time.monotonic() > end:
            raise HangError(f"{what}: not within {HANG_S:g} s")
        time.sleep(every_s)
    return found


def until(condition: Callable[[], object], what: str, *, every_s: float = LOOK_EVERY_S) -> None:
    """Return as soon as `condition` holds; errors as `first`."""
    first(lambda: True if condition() else None, what, every_s=every_s)


async def one_round() -> None:
    """Let the event loop's other tasks go on, once."""
    await asyncio.sleep(0)


async def until_async(condition: Callable[[], object], what: str) -> None:
    """Like `until` for coroutines; others have their turn at least once."""
    end = time.monotonic() + HANG_S
    await asyncio.sleep(0)
    while not condition():
        if time.monotonic() > end:
            raise HangError(f"{what}: not within {HANG_S:g} s")
        await asyncio.sleep(LOOK_EVERY_S)


def ended(*threads: threading.Thread) -> None:
    """Join threads.

    Raises:
        HangError: one did not end within HANG_S.
    """
    for thread in threads:
        thread.join(HANG_S)
        if thread.is_alive():
            raise HangError(f"thread {thread.name} did not end within {HANG_S:g} s")


def together(count: int, work: Callable[[int], object]) -> None:
    """Do `work(0)`, `work(1)`, ... at the same time in so many threads, and raise what the first of them raised.

    Raises:
        HangError: one did not end within HANG_S.
    """
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    ended(*threads)
    if errors:
        raise errors[0]


def stays(condition: Callable[[], object]) -> bool:
    """Whether `condition` holds now and after a moment in which others may break it.

    Only for what must not happen: on a slow machine it sees less, so that it never fails a product that is right.
    """
    if not condition():
        return False
    time.sleep(MOMENT_S)
    return bool(condition())
