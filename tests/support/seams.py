# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Seams of the native module from Python: threads are held at a place of the C code until a test lets them through."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from ihsm_device._native import lib
from support.process import sleeps
from support.waiting import until

HAS_SEAMS: Final = hasattr(lib, "ihsm_seam_close")
"""Whether the native module of this process has any."""
GUARD_S = 120
"""No wait takes that long unless something is broken."""


class Seams:
    """The places of this process; named as in native/seam.cdef.h, without prefix."""

    def close(self, place: str, *, let_pass: int = 0) -> None:
        """From now on threads stand there, but for the first `let_pass`."""
        lib.ihsm_seam_close(_number(place), let_pass)

    def open(self, place: str) -> None:
        """Let everybody through."""
        lib.ihsm_seam_open(_number(place))

    def wait_standing(self, place: str) -> None:
        """Wait until a thread stands there."""
        assert lib.ihsm_seam_wait_standing(_number(place), GUARD_S * 1000), f"nobody has come to {place}"

    def wait_reached(self, place: str, times: int = 1) -> None:
        """Wait until threads have come there so often."""
        assert lib.ihsm_seam_wait_reached(_number(place), times, GUARD_S * 1000), f"{place} was not reached"

    def reached(self, place: str) -> int:
        """How often threads have come there."""
        return int(lib.ihsm_seam_reached(_number(place)))

    def sleep_without_bound(self) -> None:
        """Let the poller of doorbell pages sleep until it is kicked."""
        lib.ihsm_seam_sleep_without_bound(True)

    def litter_stack(self, on: bool = True) -> None:
        """Leave litter on the stack wherever the key store takes hold of a key."""
        lib.ihsm_seam_litter_stack(on)

    def litter_left(self) -> int:
        """Bytes of litter on the stack of the calling thread."""
        return int(lib.ihsm_seam_litter_left())

    def spoil_reads(self) -> None:
        """Change guest memory wherever it has been read, at once."""
        lib.ihsm_seam_spoil_reads(True)

    def spoiled(self) -> int:
        """Bytes changed so."""
        return int(lib.ihsm_seam_spoiled())

    def reset(self) -> None:
        """Everything as it was."""
        lib.ihsm_seam_reset()


def _number(place: str) -> int:
    return int(getattr(lib, f"IHSM_SEAM_{place}"))


class Aside:
    """A call on a thread of its own."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._result: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._result.append(call(*arguments)), daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the call has returned."""
        return not self._thread.is_alive()

    def wait_asleep(self) -> None:
        """Wait until its thread sleeps, as one that waits for a lock does."""
        thread = self._thread.native_id
        assert thread is not None
        until(lambda: sleeps(thread), "a thread that sleeps")

    def result(self) -> Any:
        """What it returns, once it has."""
        self._thread.join(GUARD_S)
        assert self.done, "the call does not return"
        [result] = self._result
        return result
