# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The files of this process's own code, measured beside its start."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ihsm_abi.spdm import manifest
from ihsm_device import _native, own_code
from ihsm_device.own_code import measure_code
from ihsm_device.start_needs import StartError


def test_everything_that_runs_is_measured() -> None:
    found = {file.path: file.digest for file in measure_code()}
    for module, path in ((own_code, "ihsm_device/own_code.py"), (manifest, "ihsm_abi/spdm/manifest.py")):
        digest = hashlib.sha384(Path(module.__file__ or "").read_bytes()).digest()
        assert found[path] == digest
    native = Path(_native.__file__).read_bytes()
    assert hashlib.sha384(native).digest() in found.values()


def test_a_file_that_cannot_be_read_keeps_the_device_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "measure", fail)
    with pytest.raises(StartError, match="Permission denied"):
        measure_code()
