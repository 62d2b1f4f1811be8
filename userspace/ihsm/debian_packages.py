# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Debian's packages that are fetched, held to the hashes in debian_packages.txt; nothing but the standard library.

apt has checked each against Debian's signed lists when this looks at it. The table is a second witness: a version that
it knows must be that very file, and nothing older may come in its place, however well it is signed. What is newer,
or unknown, has apt's word alone; `scripts/pin-debian` writes the table anew.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote

TABLE: Final = Path(__file__).with_suffix(".txt")
"""Lines 'SHA-256  SUITE/FILE', where the file is NAME_VERSION_ARCHITECTURE.deb as apt writes it."""
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([a-z-]+)/(\S+_\S+_[a-z0-9]+\.deb)")
_KERNEL: Final = re.compile(r"^(linux-.*?)\d+\.\d+\.\d+(?:\+deb\d+)?(?:-\d+)?")


class RefusedPackageError(Exception):
    """A package is not the one that is pinned; the message is one line."""


class Package(NamedTuple):
    """What a file's name says."""

    family: str
    """The package's name; of a kernel without the release, so that one is found to be older than another."""
    version: str

    @classmethod
    def of(cls, file: str) -> Package:
        """Taken from 'libc6_2.41-12_amd64.deb'; a colon of the version may be written %3a."""
        parts = unquote(file).split("_")
        if len(parts) != 3:
            raise RefusedPackageError(f"{file}: not named as apt names packages; it is not used")
        name, version, _ = parts
        return cls(_KERNEL.sub(r"\1*", name), version)


def read(table: Path) -> dict[tuple[str, str], str]:
    """SHA-256 by suite and file; ValueError for a line that is none, or one that is there twice."""
    pins: dict[tuple[str, str], str] = {}
    for number, line in enumerate(table.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if not match or (match[2], unquote(match[3])) in pins:
            raise ValueError(f"{table.name}, line {number}: not 'SHA-256  SUITE/FILE', or a second time")
        pins[match[2], unquote(match[3])] = match[1]
    return pins


def check(files: Iterable[Path], suite: str, pins: Mapping[tuple[str, str], str] | None = None) -> list[str]:
    """Hold fetched packages to the table.

    Returns:
        Names of the files that the table does not know, for which the signature of the lists must do.

    Raises:
        RefusedPackageError: one has another hash than the table has for it, or is older than what the table knows.
    """
    pins = read(TABLE) if pins is None else pins
    known = {Package.of(file).family: Package.of(file).version for of, file in pins if of == suite}
    beyond = []
    for path in files:
        file = unquote(path.name)
        if wanted := pins.get((suite, file)):
            with path.open("rb") as stream:
                got = hashlib.file_digest(stream, "sha256").hexdigest()
            if got != wanted:
                raise RefusedPackageError(f"{file}: SHA-256 {got} is not the pinned {wanted}; it is not used")
            continue
        package = Package.of(file)
        if package.family in known and _older(package.version, known[package.family]):
            raise RefusedPackageError(
                f"{file}: older than the pinned version {known[package.family]} of {suite}; it is not used"
            )
        beyond.append(file)
    return beyond


def _older(version: str, than: str) -> bool:
    """As Debian orders versions."""
    return subprocess.run(["dpkg", "--compare-versions", version, "lt", than], check=False).returncode == 0
