# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which files are measured, in which image, and how the changed ones are found."""

from __future__ import annotations

import hashlib
import importlib.machinery
import subprocess
import sys
from pathlib import Path

import pytest

from ihsm_abi.spdm import manifest
from ihsm_abi.spdm.manifest import CONTROL_BLOCK, FAST_BLOCK, TRUST_BLOCK, MeasuredFile

NATIVE = "ihsm_device/_native" + importlib.machinery.EXTENSION_SUFFIXES[0]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    for name in (
        "ihsm_abi/bits.py",
        "ihsm_abi/spdm/codes.py",
        "ihsm_abi/py.typed",
        "ihsm_abi/__pycache__/bits.py",
        "ihsm_device/trust/session.py",
        "ihsm_device/hsm/keystore/store.py",
        "ihsm_device/hsm/identity/report.py",
        "ihsm_device/hsm/module.py",
        "ihsm_device/_native.cpython-299-x.so",
        NATIVE,
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return {name: tmp_path / name for name in manifest.PACKAGES}


def test_files_and_their_images(folders: dict[str, Path]) -> None:
    files = manifest.measure(folders)
    assert {file.path: file.block for file in files} == {
        "ihsm_abi/bits.py": CONTROL_BLOCK,
        "ihsm_abi/spdm/codes.py": TRUST_BLOCK,
        NATIVE: FAST_BLOCK,
        "ihsm_device/hsm/identity/report.py": TRUST_BLOCK,
        "ihsm_device/hsm/keystore/store.py": TRUST_BLOCK,
        "ihsm_device/hsm/module.py": CONTROL_BLOCK,
        "ihsm_device/trust/session.py": TRUST_BLOCK,
    }
    assert [file.path for file in files] == sorted(file.path for file in files)
    assert all(file.digest == hashlib.sha384(file.path.encode()).digest() for file in files)


def test_a_native_module_from_elsewhere(folders: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.write_text("other")
    found = {file.path: file for file in manifest.measure(folders, other)}
    assert found[NATIVE].digest == hashlib.sha384(b"other").digest()
    assert len(found) == len(manifest.measure(folders))


def test_an_image_is_of_its_files_in_order() -> None:
    files = [MeasuredFile("ihsm_abi/a.py", b"a" * 48), MeasuredFile("ihsm_abi/b.py", b"b" * 48)]
    assert manifest.image_digest(files, CONTROL_BLOCK) == hashlib.sha384(b"a" * 48 + b"b" * 48).digest()
    assert manifest.image_digest(files, FAST_BLOCK) == bytes(48)


def test_changed_files_are_named() -> None:
    files = [MeasuredFile(f"ihsm_abi/{name}.py", name.encode() * 48) for name in "abc"]
    shorts = manifest.short_digests(files)
    assert manifest.changed(files, shorts) == ([], 0)
    assert manifest.changed(files, shorts.replace(b"b" * 8, b"x" * 8)) == (["ihsm_abi/b.py"], 1)
    assert manifest.changed(files, shorts[8:]) == (["ihsm_abi/a.py"], 0)
    assert manifest.changed(files, shorts + b"x" * 8) == ([], 1)


def test_the_installed_packages_are_found_without_being_imported() -> None:
    program = (
        "import sys; from ihsm_abi.spdm import manifest; files = manifest.measure(manifest.installed());"
        "assert 'ihsm_device' not in sys.modules; print(len(files), *sorted({file.block for file in files}))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    count, *blocks = map(int, out.split())
    assert count > 100
    assert blocks == sorted({FAST_BLOCK, CONTROL_BLOCK, TRUST_BLOCK})


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "PACKAGES", ("ihsm_nowhere",))
    with pytest.raises(ModuleNotFoundError, match="ihsm_nowhere is not installed"):
        manifest.installed()
