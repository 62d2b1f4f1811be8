# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A vector asked for while another thread lets go of the function mutex is delivered, once."""

from __future__ import annotations

import pytest

from ihsm_device.commands import Outcome
from support.rig import EngineRig, hsm_entry
from support.seams import Aside, Seams

VECTOR = 5


@pytest.mark.parametrize("place", ["HOST_DELIVERED", "HOST_UNLOCKED"])
def test_a_vector_asked_for_at_the_last_moment_is_delivered(seams: Seams, rig: EngineRig, place: str) -> None:
    queue = rig.queue(1).create(vector=VECTOR)
    queue.submit(hsm_entry(1))
    command = rig.pull()
    seams.close(place)
    owner = Aside(rig.engine.set_function_mask, False)  # takes the function mutex and lets go of it
    seams.wait_standing(place)
    # Where the mutex is still held, who completes leaves the vector to its holder.
    assert rig.engine.complete_hsm(command, b"") is Outcome.POSTED
    assert not owner.done
    seams.open(place)
    owner.result()
    assert rig.host.interrupts(VECTOR) == 1
