# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Many ioctls of many threads, resets among them: no answer is lost, doubled, or another call's."""

from __future__ import annotations

import re

import pytest

from support.kmod_run import kmod_run
from support.programs import mixed_ioctls

pytestmark = pytest.mark.parametrize("via", ["notify", "preload"])


def check(via: str, calls: int, resets: int) -> None:
    done = kmod_run("--via", via, "--", mixed_ioctls(), str(calls), str(resets))
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.fullmatch(
        r"mixed: calls (\d+), answered (\d+), refused (\d+), resets (\d+), wrong 0, told to come again (\d+)\n",
        done.stdout,
    )
    assert counts, done.stdout
    made, answered, refused, done_resets, again = map(int, counts.groups())
    assert made == answered + refused + done_resets == calls
    assert answered
    assert refused
    assert done_resets >= resets
    assert again


def test_with_resets(via: str) -> None:
    check(via, 1000, 16)


@pytest.mark.long
def test_ten_thousand_with_five_hundred_resets(via: str) -> None:
    check(via, 10_000, 500)
