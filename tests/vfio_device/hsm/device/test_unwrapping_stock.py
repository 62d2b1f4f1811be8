# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Unwrapping keys made ahead: who waits for one is told when there will be none."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ihsm_device.hsm.device.unwrapping_stock import UnwrappingKeyStock
from ihsm_device.hsm.keystore import KeyStore, KeyStoreError, Kind, Owner, PairwiseTestError, Scope
from support.waiting import ended

OWNER = Owner(3, Scope.IDENTITY)


@pytest.fixture
def store() -> Iterator[KeyStore]:
    store = KeyStore(fault_injection=True)
    yield store
    store.close()


def test_each_key_is_handed_out_once(store: KeyStore) -> None:
    stock = UnwrappingKeyStock(store, pytest.fail)
    first, second = stock.take(OWNER), stock.take(OWNER)
    assert store.kind(first) == store.kind(second) == Kind.RSA
    assert store.rsa_public(first) != store.rsa_public(second)
    stock.close()
    assert store.destroy_group(function=3, scope=Scope.IDENTITY) == 2, "they are the owner's"


def test_one_who_waits_gets_the_reason_why_there_is_none(store: KeyStore) -> None:
    reasons: list[str] = []
    caught: list[BaseException] = []
    store.set_fault("pct-rsa", -1)
    stock = UnwrappingKeyStock(store, reasons.append)

    def wait() -> None:
        with pytest.raises(PairwiseTestError) as error:
            stock.take(OWNER)
        caught.append(error.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    ended(waiting)
    assert len(caught) == 1
    assert reasons == [f"unwrapping key: {caught[0]}"]
    with pytest.raises(PairwiseTestError):
        stock.take(OWNER)
    assert stock.try_take(OWNER) is None
    stock.close()


def test_nobody_waits_for_a_stock_that_is_closed(store: KeyStore) -> None:
    stock = UnwrappingKeyStock(store, pytest.fail)
    stock.close()
    with pytest.raises(KeyStoreError, match="closing"):
        stock.take(OWNER)
