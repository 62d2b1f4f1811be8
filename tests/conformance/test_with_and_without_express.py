# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The replays and what else is known of the device, through rings, with the express lane and without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
QUICK: Final = ("tests/conformance/test_crypto_conversations.py", "tests/vfio_device/hsm/test_malformed_requests.py")
ALL: Final = (
    *(f"tests/conformance/test_{name}.py" for name in ("conditions", "crypto_conversations", "golden_path")),
    *(f"tests/conformance/test_vectors_{name}.py" for name in ("derivation", "ecc", "rsa", "symmetric")),
    "tests/conformance/test_queue_conditions.py",
    "tests/conformance/test_trace_replay.py",
    "tests/vfio_device/hsm",
    "tests/vfio_device/test_killed_clients.py",
    "tests/vfio_device/faults",
    "tests/vfio_device/trace",
)


def run(express: str, *paths: str) -> int:
    """Run tests through rings; how many commands the lane has carried out of those that were for modules."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", "support.over_rings"]
    command += ["-m", "not long and not guest", *paths]
    environment = os.environ | {"IHSM_EXPRESS": express}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    found = re.search(r"the express lane carried out (\d+) commands", done.stdout)
    assert found is not None, done.stdout
    return int(found[1])


def test_conversations_with_the_lane() -> None:
    assert run("on", *QUICK) > 0


@pytest.mark.long
@pytest.mark.parametrize("express", ["on", "off"])
def test_everything(express: str) -> None:
    assert (run(express, *ALL) > 0) == (express == "on")
