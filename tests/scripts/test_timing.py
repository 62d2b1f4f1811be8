# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/timing` tells times that differ, and only those; no verdict depends on how fast a machine is."""

from __future__ import annotations

import numpy as np
import pytest

from ihsm_device.hsm.keystore import KeyStore
from support import timing


def test_the_statistic_is_that_of_welch() -> None:
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 4.0, 6.0])
    # By hand: means 2.5 and 4, variances 5/3 and 4.
    assert timing.welch(first, second) == pytest.approx(-1.5 / (5 / 12 + 4 / 3) ** 0.5)
    assert timing.welch(first, first) == 0


def test_classes_that_do_different_work_are_told_and_equal_ones_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, now = iter(range(1 << 30)), [0]
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: now[0] + next(clock) % 3)

    def work(amount: int) -> timing.Run:
        return lambda: now.__setitem__(0, now[0] + amount)

    assert timing.measure(timing.Case("", [work(1000)], [work(1010)]), 500).differs
    assert timing.measure(timing.Case("", [work(1000)], [work(2000)]), 500).differs
    assert not timing.measure(timing.Case("", [work(1000)], [work(1000)]), 500).differs


def test_every_case_runs() -> None:
    store = KeyStore()
    try:
        names = [timing.measure(case, 3).name for case in timing.cases(store)]
    finally:
        store.close()
    assert names[0] == timing.CONTROL
    assert len(set(names)) == len(names) == 11
