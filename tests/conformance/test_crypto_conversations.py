# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every step of the recorded key and crypto conversations, answered as the default profile demands."""

from pathlib import Path

import pytest

from support.crypto_replay import CryptoReplay, Outcome, Step, load

PATH = Path(__file__).parent.parent / "data" / "crypto-conversations.jsonl"
_, STEPS = load(PATH)


@pytest.fixture(scope="module")
def outcomes() -> dict[int, Outcome]:
    return CryptoReplay(PATH).run()


def test_all_steps_are_there() -> None:
    assert sum(step.fast_path for step in STEPS) == 103
    assert len(STEPS) == 691


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_step(outcomes: dict[int, Outcome], step: Step) -> None:
    assert outcomes[step.number].error is None
