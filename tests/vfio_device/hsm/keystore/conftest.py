# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the key store's own tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_device.hsm.keystore import KeyStore


@pytest.fixture
def store() -> Iterator[KeyStore]:
    """An open key store with hooks and faults, which lets tests look at results."""
    store = KeyStore(validation_hooks=True, fault_injection=True)
    yield store
    store.close()
