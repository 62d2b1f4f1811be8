# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""When a fault has the process stand still."""

from __future__ import annotations

import pytest

from ihsm_abi.fault_actions import FaultAction
from ihsm_device import faults
from support.shown import Shown


def test_no_pause_while_somebody_must_run(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding it returns at once, though its time has come; the hit is told when the pause is over."""
    pauses: list[float] = []
    monkeypatch.setattr(faults, "pause", pauses.append)
    with shown.faults.running:
        fault = shown.show(FaultAction.PAUSE_PROCESS, ms=1500)
        assert shown.stays_at(fault, 0)
        assert not pauses
    shown.until_hit(fault)
    assert pauses == [1.5]
