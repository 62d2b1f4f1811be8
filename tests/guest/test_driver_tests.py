# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The part of docs/examples/driver_tests that boots a guest; `tests/scripts/test_packaging.py` has the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

pytestmark = [pytest.mark.guest, pytest.mark.long]

PROJECT: Final = Path(__file__).parents[2] / "docs/examples/driver_tests"


def test_the_module_of_the_example_passes_and_one_that_complains_does_not(tmp_path: Path) -> None:
    project = tmp_path / "driver_tests"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    command = [sys.executable, "-m", "pytest", "-m", "guest", f"--ihsm-traces={tmp_path / 'traces'}"]
    good = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert good.returncode == 0, good.stdout + good.stderr
    assert " 1 passed, 7 deselected " in good.stdout
    assert list((tmp_path / "traces").iterdir()) == []

    source = project / "module/first_driver.c"
    source.write_text(source.read_text().replace("version = readl", "version = WARN_ON(1) - 1 + readl", 1))
    bad = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert " 1 failed, 7 deselected " in bad.stdout, bad.stdout + bad.stderr
    assert re.search(r"first_driver\.c:\d+, in version_show", bad.stdout)
    assert len(list((tmp_path / "traces").iterdir())) == 1
