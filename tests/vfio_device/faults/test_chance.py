# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that hit by chance: the same events each time, as many as said, whatever else happens."""

from __future__ import annotations

import pytest

from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Match, When
from support.polled import PolledDriver
from support.shown import Sender, Shown

WRONG = 0x4007
COMMANDS = 400


def hits(shown: Shown, sender: Sender, when: When, commands: int = COMMANDS) -> list[bool]:
    """Which of so many commands are answered wrongly."""
    fault = shown.show(FaultAction.WRONG_STATUS, match=Match(queue=sender.queue_id), when=when, status=WRONG)
    found = []
    for _ in range(commands):
        cid = sender.send()
        answered, status = sender.reap()
        assert answered == cid
        found.append(status == WRONG)
    assert shown.faults.hits(fault) == sum(found)
    shown.faults.clear(fault)
    return found


@pytest.fixture
def hsm(ready: PolledDriver) -> Sender:
    return Sender(ready, 1)


def test_the_same_seed_hits_the_same_events(shown: Shown, sender: Sender) -> None:
    first = hits(shown, sender, When(per_mille=300, seed=7), 40)
    assert 0 < sum(first) < 40
    assert hits(shown, sender, When(per_mille=300, seed=7), 40) == first
    assert hits(shown, sender, When(per_mille=300, seed=8), 40) != first


@pytest.mark.parametrize("per_mille", [1, 100, 500, 900])
def test_as_many_as_said(shown: Shown, hsm: Sender, per_mille: int) -> None:
    """Within five deviations: what is drawn is the same each time, so that it cannot fail by chance."""
    expected = COMMANDS * per_mille / 1000
    deviation = (expected * (1 - per_mille / 1000)) ** 0.5
    found = sum(hits(shown, hsm, When(per_mille=per_mille, seed=1)))
    assert abs(found - expected) <= 5 * deviation


def test_all_of_them(shown: Shown, hsm: Sender) -> None:
    assert all(hits(shown, hsm, When(per_mille=1000), 40))


def test_from_the_nth_on_and_no_more_than_so_many(shown: Shown, hsm: Sender) -> None:
    free = hits(shown, hsm, When(per_mille=500, seed=3), 40)
    bounded = hits(shown, hsm, When(per_mille=500, seed=3, nth=11, count=4), 40)
    expected = [number >= 10 and hit for number, hit in enumerate(free)]
    last = [number for number, hit in enumerate(expected) if hit][3]
    assert bounded == [hit and number <= last for number, hit in enumerate(expected)]


def test_seeds_are_independent(shown: Shown, hsm: Sender) -> None:
    """Seeds that differ by one do not hit the same events, nor those beside them."""
    patterns = [hits(shown, hsm, When(per_mille=500, seed=seed), 64) for seed in range(6)]
    for one in range(6):
        for other in range(one):
            for shift in (-1, 0, 1):
                same = sum(patterns[one][at] == patterns[other][at + shift] for at in range(1, 63))
                assert 12 < same < 50
