# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An id in use is not given out again before it is given back, whatever the order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.driver.command_ids import CommandIds


@given(
    count=st.integers(1, 40),
    actions=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1 << 16)), max_size=100),
)
@settings(max_examples=200, deadline=None)
def test_ids_in_use_are_distinct_and_all_come_back(count: int, actions: list[tuple[int, int]]) -> None:
    ids = CommandIds(count)
    used: list[int] = []
    for action, number in actions:
        if action == 0 and ids.free:
            used.append(ids.take())
        elif action == 1 and ids.free:
            used += ids.take_many(number % ids.free + 1).tolist()
        elif action == 2 and used:
            ids.give_back(used.pop(number % len(used)))
        elif action == 3 and used:
            start = number % len(used)
            ids.give_back_many(np.array(used[start:], np.int64))
            del used[start:]
        elif action == 4 and number % 8 == 0:
            ids.restart()
            used.clear()
        assert len(set(used)) == len(used)
        assert set(used) <= set(range(count))
        assert (ids.used, ids.free) == (len(used), count - len(used))
    rest = ids.take_many(ids.free).tolist()
    assert sorted(used + rest) == list(range(count))


def test_the_id_used_last_is_used_next() -> None:
    ids = CommandIds(8)
    first, second = ids.take(), ids.take()
    ids.give_back(first)
    assert ids.take() == first
    ids.give_back(second)
    assert ids.take_many(1).tolist() == [second]
