# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A Go compiler, for a test program: the one on PATH, else Debian's own, unpacked into the cache, not installed.

Set-up does not need it; the test that does provides it on first use.
"""

import shutil
from pathlib import Path

from bootstrap.apt import PrivateApt, suite
from bootstrap.layout import cache_root, existing, locked, published
from bootstrap.process import SetupError, run, step

PACKAGE = "golang-go"
PROGRAM = "usr/lib/go-{version}/bin/go"


def provide() -> Path:
    """Path of a `go` that compiles.

    Raises:
        SetupError: there is none, and it cannot be fetched.
    """
    if found := shutil.which("go"):
        return Path(found)
    parent = cache_root() / "go"
    with locked(cache_root() / "go.lock"):
        folder = existing(parent, PROGRAM.format(version="*")) or _unpack(parent)
    return folder / PROGRAM.format(version=folder.name)


def _unpack(parent: Path) -> Path:
    """Compiler and library, which refer to each other by relative links."""
    with step(f"Go: unpacking Debian's {PACKAGE} into a private folder"):
        apt = PrivateApt("go", [f"deb {suite()} main"])
        apt.update()
        wanted = packages(apt)
        name = wanted[0].removesuffix("-go")
        with published(parent / name.removeprefix("golang-")) as root:
            for deb in apt.download(wanted, root):
                run(["dpkg-deb", "-x", deb, root])
                deb.unlink()
        apt.discard()
    return parent / name.removeprefix("golang-")


def packages(apt: PrivateApt) -> list[str]:
    """The packages of the suite's current compiler and library."""
    compilers = [name for name in apt.depends(PACKAGE, "golang-") if name.endswith("-go")]
    if len(compilers) != 1:
        raise SetupError(f"expected one compiler behind {PACKAGE}, got {compilers}")
    return [compilers[0], f"{compilers[0].removesuffix('-go')}-src"]
