# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs in docs/examples run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_key_made_in_a_private_device_signs() -> None:
    example = [sys.executable, ROOT / "docs/examples/sign_in_hsm.py"]
    done = subprocess.run(example, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("verified a signature made by Ecc384Private key")
