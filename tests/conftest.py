# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Plug-ins and fixtures of the whole test run."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and nothing about ihsm: no deadline, nothing is too slow.
# Examples share a test's fixtures knowingly. Not said at the tests, because a test's own list would replace this one.
settings.register_profile(
    "ihsm",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)
settings.load_profile("ihsm")

# The device of whoever runs the tests is not theirs to reset.
os.environ.pop("IHSM_DEVICE", None)

pytest_plugins = ["conformance.conditions", "support.reporting"]


def pytest_collection_finish() -> None:
    """Keep the collector from looking at all tests, which stay anyway, each time that one of them calls it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A folder whose path leaves room for socket names."""
    with tempfile.TemporaryDirectory(prefix="ihsm-") as folder:
        yield Path(folder)
