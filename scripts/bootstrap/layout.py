# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where set-up puts things, and how a folder gets there whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def cache_root() -> Path:
    """Folder of downloads and third-party builds, shared by every checkout of this user."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):
        return Path(named, "ihsm")
    home = os.environ["HOME"] if "HOME" in os.environ else os.path.expanduser("~")
    if not os.path.isabs(home):
        raise SystemExit(f"no cache folder: user {os.getuid()} has no home; set HOME or XDG_CACHE_HOME")
    return Path(home, ".cache", "ihsm")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; say so if another process must be waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that holds {path}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` if the block succeeds and vanishes if it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    staging.chmod(0o755)
    try:
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def existing(parent: Path, marker: str) -> Path | None:
    """Newest sub-folder of `parent` that holds `marker`, or None."""
    found = [path for path in parent.glob(f"*/{marker}") if not path.relative_to(parent).parts[0].startswith(".")]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return parent / newest.relative_to(parent).parts[0]


def relocate_links(links: Iterable[Path], final: Path) -> None:
    """Make those of `links` that are absolute, as packages have them, point below `final` instead of `/`."""
    for link in links:
        if link.is_symlink() and (target := link.readlink()).is_absolute():
            link.unlink()
            link.symlink_to(final / target.relative_to("/"))
