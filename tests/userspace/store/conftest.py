# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a folder for stores, and a scrypt that takes no time unless a test is about it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from ihsm.store.sealing import Scrypt


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Not there yet, nor what it lies in."""
    return tmp_path / "data" / "ihsm"


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.store.unlocking.Scrypt", functools.partial(Scrypt, n=16))
