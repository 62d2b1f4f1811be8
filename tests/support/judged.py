# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A plug-in of pytest: the device of each test is recorded, and the driver judged by its recording.

`pytest -p support.judged`, for tests that reach a served device over its socket; one whose driver breaks a rule fails.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.errors import IhsmError
from ihsm.trace.rules import check
from ihsm_kmod.kernel.clock import StillClock
from support.live_recording import LiveRecording

ENTRIES_OF_TESTS: Final = frozenset({"aes-command", "entry-written"})
"""Rules about what stands in entries; of AES, tests send such as the device refuses."""
TRUE: Final = {"test_one_caller_more_and_nobody_gets_on": "timeout-recovers"}
"""What a test is about: a driver that hangs."""


@pytest.fixture(autouse=True)
def judged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record whatever function the test opens."""
    recordings: dict[str, LiveRecording] = {}
    opened, advance = VfioUserFunction.__init__, StillClock._advance_ns

    def open_recorded(function: VfioUserFunction, path: str | os.PathLike[str], *rest: Any, **named: Any) -> None:
        socket = os.fspath(path)
        if socket not in recordings and Path(socket).exists():
            recordings[socket] = LiveRecording(socket)
        opened(function, path, *rest, **named)

    def advance_noted(clock: StillClock, nanoseconds: int) -> None:
        for recording in tuple(recordings.values()):
            with contextlib.suppress(IhsmError):  # the test has killed the device
                recording.clock_moves(nanoseconds / 1e9)
        advance(clock, nanoseconds)

    monkeypatch.setattr(VfioUserFunction, "__init__", open_recorded)
    monkeypatch.setattr(StillClock, "_advance_ns", advance_noted)
    yield
    monkeypatch.undo()
    name = request.node.originalname
    for recording in recordings.values():
        try:
            recording.close()
        except IhsmError:
            continue
        found = [
            f"{breach.rule.name}: {breach.message} {[seen.number for seen in breach.records]}"
            for breach in check(recording.records)
            if not breach.rule.excuse
            and breach.rule.name not in ENTRIES_OF_TESTS
            and breach.rule.name != TRUE.get(name)
        ]
        assert found == []
