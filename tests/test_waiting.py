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
    "perf/preloaded_ioctls.py": "likewise",
    "support/second_cpu.py": "reports how long commands took, and judges none",
    "support/timing.py": "measures; no test",
    "support/soak/run.py": "goes on for as long as it is told to",
    "support/soak/victim.py": "reports the longest time, and judges none",
    "support/soak/workers.py": "leaves a trace unread for a while",
}
"""Files that may look at a clock, and why."""

WAITS = {"wait": 0, "join": 0, "get": 1, "acquire": 1}
"""Methods that wait, and the position of their timeout; those of the product may have it later."""
SHORT_WAITS = {
    ("userspace/driver/test_completion.py", "line(queue, spin_us=0).wait(lambda: False, queue, 0.01)"): (
        "is about a wait that ends with its time; nothing can come"
    ),
    ("userspace/driver/test_completion.py", "line(queue).wait(lambda: False, queue, 0)"): "likewise",
    ("userspace/test_kept.py", "kept.wait(0)"): "asks whether a child runs on that nothing ends",
}
"""Calls that may give up early, and why."""


def uses_of_clocks(source: Path) -> Iterator[int]:
    """Lines that sleep, read a clock or start a timer."""
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in CLOCKS | TIMERS:
            yield node.lineno


def short_waits(source: str) -> Iterator[str]:
    """Calls of a method that waits, with a literal number of seconds below the guard against hangs, as written."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in WAITS:
            continue
        timeouts = [keyword.value for keyword in node.keywords if keyword.arg in ("timeout", "timeout_s")]
        positional = node.args[WAITS[node.func.attr] :]
        # Of a dictionary, what follows the key is no time.
        is_look_up = node.func.attr == "get" and not (node.args and is_flag(node.args[0]))
        timeouts += [] if is_look_up else positional
        if any(is_short(timeout) for timeout in timeouts):
            yield ast.unparse(node)


def is_flag(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, bool)


def is_short(value: ast.expr) -> bool:
    if is_flag(value) or not isinstance(value, ast.Constant):
        return False
    return isinstance(value.value, int | float) and value.value < waiting.HANG_S


def test_no_test_gives_up_early() -> None:
    found = {
        (str(source.relative_to(TESTS)), call)
        for source in TESTS.rglob("*.py")
        for call in short_waits(source.read_text())
    }
    assert found - SHORT_WAITS.keys() == set(), "wait with support.waiting, or for HANG_S"
    assert SHORT_WAITS.keys() - found == set(), "need not be named any more"


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ("Event().wait(0.1)", True),
        ("Event().wait(timeout=0)", True),
        ("thread.join(1)", True),
        ("items.get(timeout=0.1)", True),
        ("items.get(True, 0.1)", True),
        ("lock.acquire(timeout=2)", True),
        ("lock.acquire(True, 2)", True),
        ("queue.wait(lambda: done, queue, 0.1)", True),
        ("thread.join(HANG_S)", False),
        ("thread.join(1e9)", False),
        ("thread.join()", False),
        ("fields.get('skew', 0)", False),
        ("lock.acquire(False)", False),
        ("', '.join(names)", False),
    ],
)
def test_a_short_wait_is_seen(call: str, is_found: bool) -> None:
    assert list(short_waits(call)) == ([call] if is_found else [])


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
