# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts, memory, masks and queues change while commands are in flight on HSM and AES queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_device.hsm.keystore import KeyStore
from support.storm import Storm

ROUNDS = 400


@pytest.fixture(scope="module")
def store() -> Iterator[KeyStore]:
    store = KeyStore()
    yield store
    store.close()


@pytest.mark.parametrize("doorbell_page", [False, True], ids=["trap", "page"])
def test_storm(store: KeyStore, doorbell_page: bool) -> None:
    storm = Storm(store, seed=7, doorbell_page=doorbell_page)
    storm.run(ROUNDS)
    assert storm.statuses[0] > ROUNDS, "most commands are left in peace and succeed"
    storm.close()
