# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the README shows works: examples run, commands and options exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ ihsm ([a-z-]+)((?: .*)?)$", README, re.MULTILINE)


def test_a_key_made_in_a_private_device_signs() -> None:
    example = [sys.executable, ROOT / "docs/examples/sign_in_hsm.py"]
    done = subprocess.run(example, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("verified a signature made by Ecc384Private key")


def test_the_readme_shows_commands() -> None:
    assert {name for name, _ in COMMANDS} == {"guest", "serve", "qemu-args", "info"}


@pytest.mark.parametrize(("name", "rest"), COMMANDS)
def test_the_options_of_a_command_in_the_readme_exist(name: str, rest: str) -> None:
    command = [sys.executable, "-m", "ihsm", name, "--help"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for option in re.findall(r"--[a-z-]+", rest):
        assert re.search(rf"{option}\b", text), option


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)]+)\)", README))
def test_the_links_of_the_readme_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
