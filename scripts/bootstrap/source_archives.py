# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Upstream archives of Debian's source packages, for what tests build: held by a hash in `requirements`."""

import hashlib
import re
from pathlib import Path

from bootstrap import apt
from bootstrap.process import SetupError, run


def pinned(pin: Path) -> tuple[str, str]:
    """Name and SHA-256 of the archive in a file of pins."""
    found = re.search(r"^(\S+) \\\n +--hash=sha256:([0-9a-f]{64})$", pin.read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"{pin.name} has no archive with --hash=sha256:…")
    return found[1], found[2]


def unpack(package: str, suite: str, pin: Path, target: Path, *options: str) -> None:
    """Fetch the archive of a package in a suite, and unpack it into `target` with further options of tar.

    Raises:
        SetupError: it cannot be fetched, or is not the one of `pin`.
    """
    lists = apt.PrivateApt(package, [f"deb-src {suite} main"])
    lists.update()
    name, wanted = pinned(pin)
    archives = [path for path in lists.source(package, archives_only=True) if path.name == name]
    if not archives:
        raise SetupError(f"Debian's source package of {package} in {suite} has no {name}")
    if (got := hashlib.sha256(archives[0].read_bytes()).hexdigest()) != wanted:
        raise SetupError(f"{name}: SHA-256 {got}, not that of {pin.name}; it is not used")
    target.mkdir()
    run(["tar", "-xf", archives[0], "-C", target, "--no-same-owner", *options])
    lists.discard()
