# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of all kinds while interrupts, memory, masks and queues change: the device's memory and threads bear it."""

from __future__ import annotations

import pytest

from ihsm_device.hsm.keystore import KeyStore
from support.faulty_storm import FaultyStorm

ROUNDS = 400


@pytest.mark.parametrize("doorbell_page", [False, True], ids=["trap", "page"])
def test_storm(doorbell_page: bool) -> None:
    store = KeyStore()
    storm = FaultyStorm(store, seed=ROUNDS, doorbell_page=doorbell_page)
    storm.run(ROUNDS)
    storm.close()
    store.close()
