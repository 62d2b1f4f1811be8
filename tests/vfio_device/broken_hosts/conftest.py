# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of broken hosts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which the users that root's servers become can make files: limits of users hold for these."""
    with tempfile.TemporaryDirectory(prefix="ihsm-") as name:
        os.chmod(name, 0o1777)
        yield Path(name)
