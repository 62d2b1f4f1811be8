# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A Python environment with the current versions of the libraries, and with ihsm as its users install it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bootstrap import apt
from bootstrap.layout import CHECKOUT
from bootstrap.process import output, run, step
from bootstrap.python_env import PYTHON

REQUIREMENTS: Final = CHECKOUT / "tests/libraries/requirements.txt"
RUNNER: Final = ("pytest", "pytest-timeout", "hypothesis")
"""What the tests themselves need."""
JUDGES: Final = ("bind9-utils", "openssh-client", "openssl", "xmlsec1")
"""Debian packages of the programs that verify what the libraries made."""


def provide_judges() -> None:
    """Install the programs that verify; SetupError if that needs root."""
    if absent := apt.missing(JUDGES):
        with step(f"judges: installing {' '.join(absent)}"):
            apt.install(absent)


def library_names(text: str) -> list[str]:
    """The names in a requirements file, which has one a line and `#` comments."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line]


def provide_libraries(venv: Path) -> None:
    """Make `venv` anew, with whatever versions are current now, and with a wheel of this checkout.

    Raises:
        SetupError: the index cannot be reached, the libraries do not go together, or the wheel does not build.
    """
    tools = CHECKOUT / ".venv/bin"
    with step("libraries: installing the current versions"), tempfile.TemporaryDirectory() as wheels:
        pip: list[str | Path] = [tools / "python", "-m", "pip", "--disable-pip-version-check"]
        path = {"PATH": f"{tools}:{os.environ['PATH']}"}
        run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, CHECKOUT], env=path)
        run([PYTHON, "-m", "venv", "--clear", venv])
        python = venv / "bin/python"
        run([python, "-m", "pip", "--disable-pip-version-check", "install", "uv"])
        (wheel,) = Path(wheels).iterdir()
        install: list[str | Path] = [venv / "bin/uv", "pip", "install", "--python", python, "--upgrade", "--refresh"]
        run([*install, "--requirement", REQUIREMENTS, *RUNNER, wheel])


def versions(venv: Path, names: Sequence[str]) -> dict[str, str]:
    """Which versions are installed, by the names given."""
    program = (
        "import json, sys; from importlib.metadata import version; print(json.dumps({n: version(n) for n in "
        "sys.argv[1:]}))"
    )
    found: dict[str, str] = json.loads(output([venv / "bin/python", "-c", program, *names]))
    return found


def held_back(venv: Path, names: Sequence[str]) -> Mapping[str, str]:
    """Libraries of which a newer version is out than the others allow, and that version."""
    listed = ["--outdated", "--format", "json"]
    command: list[str | Path] = [venv / "bin/uv", "pip", "list", "--python", venv / "bin/python", *listed]
    newest = {entry["name"]: entry["latest_version"] for entry in json.loads(output(command))}
    return {name: newest[name] for name in names if name in newest}
