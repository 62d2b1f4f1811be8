# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Reading requirements/lock.txt: what is pinned, by which hashes, and what asked for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

PROJECT: Final = "ihsm (pyproject.toml)"
"""What the lock calls the project's own requirements; those of a group have `pyproject.toml:GROUP` there."""
_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==(\S+)(?: ; ([^\\]+?))? \\")
_HASH: Final = re.compile(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?")
_VIA: Final = re.compile(r"    # via (\S.*)|    #   (\S.*)")


class Locked(NamedTuple):
    """One package of the lock; a package has several where Python versions take different ones."""

    name: str
    version: str
    marker: str
    """Where it applies, as in requirements; empty for everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of each file that may be installed."""
    via: tuple[str, ...]
    """Packages that asked for it, and `PROJECT`."""


class NotPinnedError(Exception):
    """A line of the lock that is no pin; the message names file and line."""


def read(path: Path) -> list[Locked]:
    """All packages of a lock, in its order.

    Raises:
        NotPinnedError: a requirement without exact version or hash, an option, a location, or a line of unknown kind.
    """
    packages: list[Locked] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if pin := _PIN.fullmatch(line):
            packages.append(Locked(pin[1], pin[2], pin[3] or "", (), ()))
        elif packages and (digest := _HASH.fullmatch(line)):
            packages[-1] = packages[-1]._replace(hashes=(*packages[-1].hashes, digest[1]))
        elif packages and (via := _VIA.fullmatch(line)):
            packages[-1] = packages[-1]._replace(via=(*packages[-1].via, via[1] or via[2]))
        elif line.strip(" #") and not line.startswith("#") and line != "    # via":
            raise NotPinnedError(f"{path.name}, line {number}: not NAME==VERSION with --hash=sha256:…: {line.strip()}")
    if bare := [package.name for package in packages if not package.hashes]:
        raise NotPinnedError(f"{path.name}: no hash for {', '.join(bare)}")
    return packages


def needed_at_run_time(packages: list[Locked]) -> list[Locked]:
    """What the project's own requirements lead to, without those of its groups."""
    names: set[str] = set()
    while (
        more := {package.name for package in packages if not names.isdisjoint(package.via) or PROJECT in package.via}
        - names
    ):
        names |= more
    return [package for package in packages if package.name in names]
