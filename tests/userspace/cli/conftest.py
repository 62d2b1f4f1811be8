# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a device for commands, and nothing else that `auto` could find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.api.hsm import Hsm
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.sockets import default_folder
from support.commands import uri


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice(["--resources", "2"]) as device:
        yield device


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, device: EmbeddedDevice) -> Path:
    """A data folder with a store for the device, and keys "p256", "p384", "p521", "rsa2048" in it."""
    folder = tmp_path_factory.mktemp("stores")
    with Hsm.create(root=folder / "ihsm", device=uri(device)) as hsm:
        for kind in ("p256", "p384", "p521", "rsa2048"):
            hsm.generate(kind, kind)
    return folder


@pytest.fixture
def keys(stores: Path, no_other_devices: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have commands use the store of `stores`."""
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(stores))
    return stores


@pytest.fixture(autouse=True)
def no_other_devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "data"))
    monkeypatch.setattr("ihsm.cli.pin._TERMINAL", "/nowhere/tty")  # that of whoever runs the tests
    monkeypatch.delenv("IHSM_STORE", raising=False)
    monkeypatch.delenv("IHSM_DEVICE", raising=False)
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda context=None: [])
    default_folder().mkdir()
