# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest whose two processors are both against the device, also under sanitizers; another function works meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from support.native_builds import SANITIZERS, sanitized_build
from support.second_cpu import run

LIVES: Final = 40


def test_a_second_cpu(socket_folder: Path) -> None:
    done = run(socket_folder, 1, "page", steps=500)
    assert done["attacker"]["lives"] == 1
    assert all(times["count"] > 0 for times in done["victim_ms"].values())


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("doorbell", ["trap", "page"])
@pytest.mark.parametrize("sanitizer", [None, *SANITIZERS])
def test_many_lives(socket_folder: Path, sanitizer: str | None, doorbell: str) -> None:
    native, environment = (None, None) if sanitizer is None else sanitized_build(sanitizer)
    run(socket_folder, LIVES, doorbell, native=native, environment=environment)
