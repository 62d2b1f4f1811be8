# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Plug-ins and fixtures of the whole test run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["conformance.conditions", "support.reporting"]


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder whose path leaves room for socket names."""
    with tempfile.TemporaryDirectory(prefix="ihsm-") as folder:
        yield Path(folder)
