# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a key store, and AES queues over a loopback host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ihsm_device.hsm.keystore import KeyStore
from support.aes_rig import AesRig


@pytest.fixture(scope="module")
def store() -> Iterator[KeyStore]:
    """The process's key store."""
    store = KeyStore()
    yield store
    store.close()


@pytest.fixture
def make_rig(store: KeyStore) -> Iterator[Callable[..., AesRig]]:
    """Makes rigs that are closed after the test."""
    rigs: list[AesRig] = []

    def make(*args: Any, **options: Any) -> AesRig:
        rigs.append(AesRig(store, *args, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture(scope="module")
def rig(store: KeyStore) -> Iterator[AesRig]:
    """One rig for a whole module, with one GCM key of each kind and a pair of XTS keys."""
    rig = AesRig(store, 1 << 24, region_ends=[0x5000, 0x123000])
    rig.add_standard_keys()
    yield rig
    rig.close()
