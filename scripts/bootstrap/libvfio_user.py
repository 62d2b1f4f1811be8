# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""libvfio-user's source: not packaged by Debian, but part of its qemu source package."""

import hashlib
import os
from pathlib import Path

from bootstrap.apt import PrivateApt
from bootstrap.layout import CHECKOUT, cache_root, existing, published
from bootstrap.process import SetupError, run, say, step

PATCHES = CHECKOUT / "vfio_device" / "native" / "patches"
MARKER = "include/libvfio-user.h"


def provide(apt: PrivateApt) -> Path:
    """Folder of the source tree to build from, patched."""
    if named := os.environ.get("IHSM_LIBVFIO_USER"):
        if not Path(named, MARKER).exists():
            raise SetupError(f"IHSM_LIBVFIO_USER={named}: not a libvfio-user source tree (no {MARKER})")
        say(f"libvfio-user: {named}, named by IHSM_LIBVFIO_USER")
        return Path(named)
    patches = sorted(PATCHES.glob("*.patch"))
    digest = hashlib.sha256(b"".join(patch.read_bytes() for patch in patches)).hexdigest()[:12]
    target = cache_root() / "libvfio-user" / f"patched-{digest}"
    if (target / MARKER).exists():
        say("libvfio-user: source there already")
        return target
    with step("libvfio-user: applying our patches" if pristine() else "libvfio-user: fetching the source"):
        source = pristine() or fetch(apt)
        with published(target) as root:
            run(["cp", "-a", f"{source}/.", root])
            for patch in patches:
                run(["patch", "-p1", "--no-backup-if-mismatch", "-i", patch], cwd=root)
    return target


def pristine() -> Path | None:
    """The unpatched source, if it was fetched before."""
    return existing(cache_root() / "libvfio-user" / "pristine", MARKER)


def fetch(apt: PrivateApt) -> Path:
    """Take the source out of Debian's qemu source package (its signature is checked by apt)."""
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
    return target
