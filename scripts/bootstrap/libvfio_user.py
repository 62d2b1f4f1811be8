# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""libvfio-user's source: not packaged by Debian, but part of its qemu source package."""

import hashlib
import os
import re
from pathlib import Path

from bootstrap.apt import PrivateApt
from bootstrap.layout import CHECKOUT, cache_root, existing, published
from bootstrap.process import SetupError, run, say, step

PATCHES = CHECKOUT / "vfio_device" / "native" / "patches"
PIN = CHECKOUT / "requirements" / "libvfio-user.txt"
MARKER = "include/libvfio-user.h"
RECIPE = "RECIPE"
"""File in a patched tree that says what it was made of: the pin, and the hash of each patch."""


def provide(apt: PrivateApt) -> Path:
    """Folder of the source tree to build from, patched."""
    if named := os.environ.get("IHSM_LIBVFIO_USER"):
        if not Path(named, MARKER).exists():
            raise SetupError(f"IHSM_LIBVFIO_USER={named}: not a libvfio-user source tree (no {MARKER})")
        say(f"libvfio-user: {named}, named by IHSM_LIBVFIO_USER")
        return Path(named)
    patches = sorted(PATCHES.glob("*.patch"))
    recipe = PIN.read_text() + "".join(
        f"{hashlib.sha256(patch.read_bytes()).hexdigest()}  {patch.name}\n" for patch in patches
    )
    target = cache_root() / "libvfio-user" / f"patched-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if (target / MARKER).exists():
        say("libvfio-user: source there already")
        return target
    with step("libvfio-user: applying our patches" if pristine() else "libvfio-user: fetching the source"):
        source = pristine() or fetch(apt)
        with published(target) as root:
            run(["cp", "-a", f"{source}/.", root])
            for patch in patches:
                run(["patch", "-p1", "--no-backup-if-mismatch", "-i", patch], cwd=root)
            (root / RECIPE).write_text(recipe)
    return target


def pristine() -> Path | None:
    """The unpatched source, if it was fetched before."""
    found = existing(cache_root() / "libvfio-user" / "pristine", MARKER)
    return found if found and digest(found) == pinned() else None


def pinned() -> str:
    """The digest that a source must have."""
    found = re.search(r"--hash=sha256:([0-9a-f]{64})$", PIN.read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"{PIN.name} has no --hash=sha256:…")
    return found[1]


def digest(tree: Path) -> str:
    """SHA-256 of what is built, as `find include lib -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` has it."""
    files = sorted(
        (path for folder in ("include", "lib") for path in (tree / folder).rglob("*") if path.is_file()), key=str
    )
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch(apt: PrivateApt) -> Path:
    """Take the source out of Debian's qemu source package (apt checks its signature) and hold it to the pin."""
    apt.update()
    files = apt.source("qemu")
    archives = [path for path in files if ".orig.tar" in path.name]
    if len(archives) != 1:
        raise SetupError(f"expected one upstream archive in the qemu source package, got {[p.name for p in files]}")
    version = archives[0].name.removeprefix("qemu_").partition(".orig.tar")[0]
    target = cache_root() / "libvfio-user" / "pristine" / version
    with published(target) as root:
        member = "*/subprojects/libvfio-user/*"
        run(["tar", "-xf", archives[0], "-C", root, "--no-same-owner", "--strip-components=3", "--wildcards", member])
        if not (root / MARKER).exists():
            raise SetupError(
                f"{archives[0].name} does not hold libvfio-user; name a source tree with IHSM_LIBVFIO_USER"
            )
        if (got := digest(root)) != pinned():
            raise SetupError(
                f"{archives[0].name}: its libvfio-user has SHA-256 {got}, not that of {PIN.name}; it is not used"
            )
    return target
