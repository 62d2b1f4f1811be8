# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The lock file is that of the declared dependencies, every package pinned by hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"[A-Za-z0-9._-]+")


def canonical(requirement: str) -> str:
    match = NAME.match(requirement)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_every_declared_package_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for group in project["dependency-groups"].values():
        declared += group
    locked = {canonical(line) for line in (ROOT / "requirements/lock.txt").read_text().splitlines() if "==" in line}
    assert {canonical(requirement) for requirement in declared} <= locked, "run scripts/lock"


def test_every_locked_package_has_hashes() -> None:
    text = (ROOT / "requirements/lock.txt").read_text() + (ROOT / "requirements/aws-lc.txt").read_text()
    packages = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in package for package in packages)
