# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver model breaks no rule, whatever the device does: each flow is recorded and judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FLOWS: Final = Path(__file__).parent / "flows"


def judge(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.judged", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_rule_is_broken_where_completions_go_wrong() -> None:
    judge(str(FLOWS / "test_completions.py"))


@pytest.mark.long
def test_no_rule_is_broken_in_any_flow() -> None:
    judge(str(FLOWS))
