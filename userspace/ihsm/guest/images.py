# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Images of the environment that a guest's Python programs run in: made once, kept, and made anew after a change.

Over 9p each file that a program loads costs several round trips to the host, and a Python program loads hundreds. A
guest has their images as disks instead, laid over what 9p shows at the same paths. The name of an image is made from
what lstat(2) tells of every file in it, time of change of the inode included, so that no edit can go unnoticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ihsm.guest import environment
from ihsm.guest.byte_code import byte_code, cached_name
from ihsm.guest.environment import Part, Stamps
from ihsm.guest.erofs import Attributes, Node, write_image
from ihsm.guest.errors import ToolchainError
from ihsm.guest.kernel import GuestKernel
from ihsm.guest.toolchain import cache_root, keep

MODULES: Final = ("erofs", "virtio_blk")
"""Modules of a guest's kernel that mount an image."""
CHECKSUM_MODULE: Final = "crc32c_generic"
"""What `libcrc32c`, which erofs needs, asks for when it begins; a kernel may have it under another name."""
FOLDER: Final = "guest-images"
SUFFIX: Final = ".erofs"
KEPT_IMAGES: Final = 3
"""Of each part; older ones are removed when another is made."""
YOUNG_S: Final = 600.0
"""An image that was taken so lately may belong to a guest that is just starting."""
_FORMAT: Final = "1"
"""Another one, other images: what is in them beside the files, and how they are written."""


@dataclass(slots=True)
class Image:
    """An image in the cache, and the files in it as they were when it was taken."""

    part: Part
    path: Path
    stamps: Stamps

    def changed(self, without: Sequence[Path] = ()) -> list[str]:
        """Files of the part that are new, gone or others since the last call, or since the image was taken.

        Args:
            without: folders whose files are left out.
        """
        now = environment.scan(self.part)
        libraries = self.stamps.keys() - now.keys()
        now.update(environment.stamp(libraries))
        before, self.stamps = self.stamps, now
        differing = (
            path
            for path in before.keys() | now.keys()
            if path not in before or path not in now or _mark(before[path]) != _mark(now[path])
        )
        return sorted(path for path in differing if not any(Path(path).is_relative_to(folder) for folder in without))


def boot_modules(kernel: GuestKernel) -> tuple[str, ...] | None:
    """Modules that a kernel has to load to mount images; None if it cannot."""
    if not all(map(kernel.has, MODULES)):
        return None
    return (CHECKSUM_MODULE, *MODULES) if kernel.has(CHECKSUM_MODULE) else MODULES


def provide(say: Callable[[str], None] = lambda text: None) -> list[Image]:
    """The images of this environment, made where they are missing; those that must lie on top last.

    Guests work without them, only slower: where an image cannot be made or kept, it is left out and `say` told why.
    """
    images = []
    for part in Part:
        try:
            images.append(_provided(part, say))
        except (OSError, ToolchainError, ValueError) as error:
            say(f"guest: no image of {part}, files come over 9p: {error}")
    return images


def _provided(part: Part, say: Callable[[str], None]) -> Image:
    folder = cache_root() / FOLDER
    stamps = environment.scan(part)
    if part is Part.PYTHON:
        stamps.update(environment.stamp(_libraries(folder, stamps)))
    image = Image(part, folder / f"{part}-{_digest(stamps)}{SUFFIX}", stamps)
    try:
        os.utime(image.path)
    except FileNotFoundError:
        began = time.monotonic()
        _make(image)
        size_mb = image.path.stat().st_size / 1e6
        say(f"guest: made an image of {part}, {size_mb:.0f} MB, in {time.monotonic() - began:.1f} s: {image.path}")
        _prune(part, folder)
    return image


def _libraries(folder: Path, stamps: Stamps) -> list[str]:
    """Libraries that the files are linked with; found out once, for that takes seconds."""
    memory = folder / f"libraries-{_digest(stamps)}.json"
    try:
        return [str(path) for path in json.loads(memory.read_bytes())]
    except (OSError, ValueError, TypeError):
        found = environment.linked_libraries(stamps)
        keep(memory, json.dumps(found).encode())
        return found


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What is another after any change of a file, and the same otherwise."""
    return (
        *(status.st_mode, status.st_uid, status.st_gid, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev),
    )


def _digest(stamps: Stamps) -> str:
    digest = hashlib.sha256(_FORMAT.encode())
    for path, status in sorted(stamps.items()):
        digest.update(os.fsencode(f"{path}\0{_mark(status)}\0"))
    for path in sorted(_above(stamps)):
        status = os.stat(path)
        digest.update(os.fsencode(f"{path}\0{status.st_mode} {status.st_uid} {status.st_gid}\0"))
    return digest.hexdigest()[:24]


def _above(paths: Iterable[str]) -> set[str]:
    """Every folder above the paths, the root included."""
    found = {"/"}
    for path in paths:
        while (path := os.path.dirname(path)) not in found:
            found.add(path)
    return found


def _make(image: Image) -> None:
    """Write an image, whole or not at all."""
    image.path.parent.mkdir(parents=True, exist_ok=True)
    written = image.path.with_name(f".{image.path.name}.{os.getpid()}")
    try:
        with written.open("wb") as file:
            write_image(file, _nodes(image.stamps))
        written.replace(image.path)
    except BaseException:
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
        raise


def _nodes(stamps: Stamps) -> dict[bytes, Node]:
    """What goes into an image: the files, byte code of the sources, the folders above."""
    nodes: dict[str, Node] = {}
    for path, status in stamps.items():
        attributes = Attributes.of(status)
        if stat.S_ISLNK(status.st_mode):
            nodes[path] = Node(attributes, os.fsencode(os.readlink(path)))
        elif os.access(path, os.R_OK):
            nodes[path] = Node(attributes, Path(path), status.st_size)
            if path.endswith(".py") and (code := byte_code(Path(path), status)) is not None:
                nodes[os.fspath(cached_name(Path(path)))] = Node(attributes, code)
    for path in _above(nodes):
        # A folder of byte code need not be there.
        status = os.stat(path if os.path.isdir(path) else os.path.dirname(path))
        nodes[path] = Node(Attributes.of(status))
    return {os.fsencode(path).strip(b"/"): node for path, node in nodes.items()}


def _prune(part: Part, folder: Path) -> None:
    """Remove images that nobody has taken for long, but the latest; a guest keeps what it has open."""
    now = time.time()
    with contextlib.suppress(OSError):
        images = sorted(folder.glob(f"{part}-*{SUFFIX}"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in images[KEPT_IMAGES:]:
            if now - path.stat().st_mtime > YOUNG_S:
                path.unlink(missing_ok=True)
