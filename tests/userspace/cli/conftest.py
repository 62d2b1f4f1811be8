# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a device for commands, and nothing else that `auto` could find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.embedded import EmbeddedDevice
from ihsm_abi.sockets import default_folder


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice(["--resources", "2"]) as device:
        yield device


@pytest.fixture(autouse=True)
def no_other_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda context=None: [])
    default_folder().mkdir()
