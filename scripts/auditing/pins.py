# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What needs no service: every part is pinned by hash, and what is installed and linked is what is pinned."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lock_file
from bootstrap.process import SetupError
from bootstrap.source_archives import pinned
from ihsm import debian_packages

AWS_LC: Final = "requirements/aws-lc.txt"
LIBVFIO_USER: Final = "requirements/libvfio-user.txt"
ARCHIVES: Final = ("requirements/libspdm.txt", "requirements/pciutils.txt")
"""Of what tests alone are made of."""
LOCK: Final = "requirements/lock.txt"


def findings(root: Path, bill: dict[str, Any], installed: Callable[[str], str] = version) -> list[str]:
    """What is wrong with the pins of the checkout in `root`, a line each.

    Args:
        root: the checkout.
        bill: bill of materials of its build.
        installed: version of an installed package by its name, PackageNotFoundError if it is not.
    """
    try:
        lock = lock_file.read(root / LOCK)
        debian_packages.read(root / "userspace/ihsm" / debian_packages.TABLE.name)
    except (lock_file.NotPinnedError, ValueError) as error:
        return [str(error)]
    held = (_declared(root, lock), _installed(lock, installed), _linked(root, bill), _archives(root))
    return [*_shared_hashes(lock), *itertools.chain(*held)]


def _shared_hashes(lock: list[lock_file.Locked]) -> Iterator[str]:
    count = Counter(digest for package in lock for digest in package.hashes)
    for package in lock:
        if any(count[digest] > 1 for digest in package.hashes):
            yield f"{LOCK}: {package.name} {package.version} has a hash that is there twice"


def _declared(root: Path, lock: list[lock_file.Locked]) -> Iterator[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    declared = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for group in project["dependency-groups"].values():
        declared += group
    for line in sorted(set(declared)):
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        versions = [package.version for package in lock if package.name == name]
        if not versions or not all(requirement.specifier.contains(each, prereleases=True) for each in versions):
            yield f"{LOCK}: {line} is declared, locked is {', '.join(versions) or 'none'}; run scripts/lock"


def _installed(lock: list[lock_file.Locked], installed: Callable[[str], str]) -> Iterator[str]:
    for package in lock:
        if package.marker and not Marker(package.marker).evaluate():
            continue
        try:
            found = installed(package.name)
        except PackageNotFoundError:
            found = "none"
        if found != package.version:
            yield f"{package.name}: locked is {package.version}, installed is {found}; run scripts/setup"


def _linked(root: Path, bill: dict[str, Any]) -> Iterator[str]:
    parts = {component["name"]: component for component in bill["components"]}
    for name, pin in (("aws-lc", AWS_LC), ("libvfio-user", LIBVFIO_USER)):
        wanted = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", (root / pin).read_text()))
        references = parts[name].get("externalReferences", [])
        got = {digest["content"] for reference in references for digest in reference["hashes"]}
        if not wanted or got != wanted:
            yield f"{name}: what is linked is not made of what {pin} pins; run scripts/setup"


def _archives(root: Path) -> Iterator[str]:
    for pin in ARCHIVES:
        try:
            pinned(root / pin)
        except SetupError as error:
            yield str(error)
