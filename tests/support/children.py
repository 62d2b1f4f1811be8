# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Work in a child made by os.fork(), and what came of it."""

from __future__ import annotations

import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest

from ihsm.errors import ForkedError
from support.waiting import HANG_S, HangError

T = TypeVar("T")

FORKS: Final = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
"""For tests that fork a process which has threads: here that is the point."""


class Child:
    """A child that does something and ends without cleaning up, so that pytest does not go on in it."""

    def __init__(self, work: Callable[[], Any], *, fork: Callable[[], int] = os.fork) -> None:
        self._read, write = os.pipe()
        self.pid = fork()
        if self.pid:
            os.close(write)
            return
        try:
            os.close(self._read)
            try:
                outcome: tuple[bool, Any] = (True, work())
                message = pickle.dumps(outcome)
            except BaseException as error:
                traceback.print_exc()
                message = pickle.dumps((False, f"{type(error).__name__}: {error}"))
            with os.fdopen(write, "wb") as pipe:
                pipe.write(message)
        finally:
            os._exit(0)

    def result(self) -> Any:
        """What the work returned; HangError if it never does, AssertionError with the error that it raised."""
        received = b""
        try:
            while select.select([self._read], [], [], HANG_S)[0]:
                data = os.read(self._read, 1 << 16)
                if not data:
                    break
                received += data
            else:
                raise HangError(f"the child's work is not done within {HANG_S:g} s")
        finally:
            os.close(self._read)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        assert received, "the child ended without a word"
        good, value = pickle.loads(received)
        assert good, f"in the child: {value}"
        return value


def in_child(work: Callable[[], T], *, fork: Callable[[], int] = os.fork) -> T:
    """What `work` returns in a child."""
    value: T = Child(work, fork=fork).result()
    return value


def refusal(work: Callable[[], Any]) -> str:
    """The message of the `ForkedError` that `work` raises; AssertionError if it does not."""
    try:
        value = work()
    except ForkedError as error:
        return str(error)
    raise AssertionError(f"not refused, but {value!r}")
