# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The guest's kernel: Debian's own package and its headers, unpacked into the cache, not installed."""

import re
from pathlib import Path

from bootstrap.apt import PrivateApt
from bootstrap.layout import cache_root, existing, published, relocate_links
from bootstrap.process import SetupError, run, say, step

IMAGE = "linux-image-amd64"
HEADERS = "linux-headers-amd64"
HEADER_PARTS = ("linux-headers-", "linux-kbuild-", "linux-compiler-")


def provide(apt: PrivateApt) -> None:
    """Make sure `CACHE/kernel/RELEASE` holds boot/, lib/modules/ and usr/src/ of one kernel."""
    parent = cache_root() / "kernel"
    if have := existing(parent, "boot/vmlinuz-*"):
        say(f"guest kernel: {have.name}, there already")
        return
    with step("guest kernel: unpacking Debian's kernel and its headers"):
        apt.update()
        wanted = packages(apt)
        release = wanted[0].removeprefix("linux-image-")
        with published(parent / release) as root:
            for deb in apt.download(wanted, root):
                run(["dpkg-deb", "-x", deb, root])
                deb.unlink()
            if not (root / "lib").exists():  # from Debian 13 on, packages name /usr/lib
                (root / "lib").symlink_to("usr/lib")
            relocate_headers(root, parent / release)
            run(["depmod", "-b", root, release])


def packages(apt: PrivateApt) -> list[str]:
    """The packages of the suite's current kernel, its image first."""
    images = apt.depends(IMAGE, "linux-image-")
    headers = apt.depends(HEADERS, "linux-headers-")
    if len(images) != 1 or len(headers) != 1:
        raise SetupError(f"expected one kernel behind {IMAGE} and {HEADERS}, got {images} and {headers}")
    parts = [name for prefix in HEADER_PARTS for name in apt.depends(headers[0], prefix)]
    return [*images, *apt.depends(images[0], "linux-modules-"), *headers, *parts]


def relocate_headers(root: Path, final: Path) -> None:
    """Make the unpacked headers refer to each other under `final` instead of /usr/src."""
    for makefile in root.glob("usr/src/linux-headers-*/Makefile"):
        text = makefile.read_text()
        makefile.write_text(re.sub(r"(?<![\w/])/usr/(src|lib)/linux-", rf"{final}/usr/\1/linux-", text))
    relocate_links(root.glob("lib/modules/*/*"), final)
