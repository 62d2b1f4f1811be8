# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How tests wait: by `support.waiting` alone, so that none of them fails on a machine that has other things to do."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import waiting

TESTS = Path(__file__).parent
CLOCKS = {"sleep", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "thread_time"}
TIMERS = {"Timer"}
ALLOWED = {
    "support/waiting.py": "is how they wait",
    "support/storm.py": "pauses at random, so that what races meets in many ways",
    "vfio_device/test_storm.py": "likewise",
    "support/killed.py": "kills at random moments",
    "guest/test_killed_guests.py": "likewise",
    "vfio_device/hsm/device/test_state.py": "likewise",
    "guest/operations.py": "a program that reports how long it took",
    "guest/vfio_driver.py": "likewise",
    "perf/slow_commands.py": "measures; no test",
}
"""Files that may look at a clock, and why."""


def uses_of_clocks(source: Path) -> Iterator[int]:
    """Lines that sleep, read a clock or start a timer."""
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in CLOCKS | TIMERS:
            yield node.lineno


def test_no_test_sleeps_or_judges_a_time() -> None:
    found = {str(source.relative_to(TESTS)): list(uses_of_clocks(source)) for source in TESTS.rglob("*.py")}
    looking = {name: lines for name, lines in found.items() if lines}
    assert looking.keys() - ALLOWED.keys() == set(), f"wait for a condition, see support/waiting.py: {looking}"
    assert ALLOWED.keys() - looking.keys() == set(), "need not be named any more"


def test_what_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "HANG_S", 0.0)
    with pytest.raises(waiting.HangError, match="godot: not within 0 s"):
        waiting.until(lambda: False, "godot")
    stop = threading.Event()
    endless = threading.Thread(target=stop.wait, name="endless")
    endless.start()
    with pytest.raises(waiting.HangError, match="thread endless did not end"):
        waiting.ended(endless)
    stop.set()


def test_what_comes_is_returned() -> None:
    items = iter([None, None, 0, 1])
    assert waiting.first(lambda: next(items), "a number") == 0
    waiting.until(lambda: next(items), "a true one")


def test_what_does_not_stay_is_seen() -> None:
    looks = iter([True, False])
    assert not waiting.stays(lambda: next(looks))
    assert waiting.stays(lambda: True)
