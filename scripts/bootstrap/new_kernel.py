# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A kernel that shows more of a device than the guests' own, for tests: Debian's newest, unpacked, not installed."""

from pathlib import Path
from typing import Final

from bootstrap.apt import PrivateApt
from bootstrap.kernel import IMAGE
from bootstrap.layout import cache_root, existing, locked, published
from bootstrap.process import SetupError, run, step

SUITE: Final = "sid"
"""Where Debian has its newest; Debian's signature alone vouches for it, for it is replaced every week."""
PARTS: Final = ("linux-base-", "linux-binary-", "linux-modules-")
"""What the package of an image is split into since Linux 7; before, it has all of it."""
BOOT: Final = "boot/vmlinuz-"


def provide() -> Path:
    """Folder with boot/ and lib/modules/ for `ihsm guest --kernel`; the first that was fetched stays.

    Raises:
        SetupError: it cannot be fetched, or is laid out in a way that is not known here.
    """
    parent = cache_root() / "new-kernel"
    with locked(cache_root() / "new-kernel.lock"):
        if have := existing(parent, f"{BOOT}*"):
            return have
        with step(f"new kernel: unpacking that of Debian's {SUITE}"):
            return _unpack(parent)


def _unpack(parent: Path) -> Path:
    lists = PrivateApt("new-kernel", [f"deb {SUITE} main"])
    lists.update()
    images = lists.depends(IMAGE, "linux-image-")
    if len(images) != 1:
        raise SetupError(f"expected one kernel behind {IMAGE} of {SUITE}, got {images}")
    release = images[0].removeprefix("linux-image-")
    with published(parent / release) as root:
        for deb in lists.download(
            [*images, *(name for part in PARTS for name in lists.depends(images[0], part))], root
        ):
            run(["dpkg-deb", "-x", deb, root])
            deb.unlink()
        if not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")
        image = root / f"{BOOT}{release}"
        if not image.exists():
            image.parent.mkdir(exist_ok=True)
            (root / "lib/modules" / release / "vmlinuz").rename(image)
        run(["depmod", "-b", root, release])
    lists.discard()
    return parent / release
