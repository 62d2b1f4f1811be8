# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Root's state directory, given to the user that the server becomes: what nobody else has had a hand in, or nothing.

Somebody who may write in a folder on the way to it can put a link, or another folder, in its place, and would get files
of root's that are no device's. So names count only where root alone decides what they stand for, from `/` on.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ihsm_device import state_files
from ihsm_device.errors import StateError
from ihsm_device.sandbox.privileges import User
from ihsm_device.state_lock import StateLock

_MAX_LINKS: Final = 40
"""As many as the kernel follows (path_resolution(7))."""
_WAY_MODE: Final = 0o755
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def chosen_by_others(path: Path) -> Path | None:
    """The first folder or link on the way to `path` where somebody else than root can decide what comes next.

    None: only root can have chosen what is there, or whether there is anything, and nobody else can change that.

    Raises:
        OSError: the way leads nowhere.
        StateError: a link of somebody else's is on it, which root does not follow.
    """
    here, names, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    others: Path | None = None
    while names:
        entry = here / names.pop()
        try:
            status = entry.lstat()
        except FileNotFoundError:
            break
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid:
                raise StateError(f"{entry}: a link of user {status.st_uid}, name the folder itself")
            if (links := links + 1) > _MAX_LINKS:
                raise StateError(f"{entry}: too many links")
            target = entry.readlink()
            here = Path("/") if target.is_absolute() else here
            names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
            continue
        if status.st_uid or (status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX):
            others = others or entry
        here = entry.resolve()  # of a name that is `..`
    return others


def obstacle(path: Path, user: User) -> str | None:
    """Why root's folder `path`, or one that it has yet to make there, is not for `user`; None: it may be given.

    Raises:
        StateError, OSError: as `chosen_by_others`.
    """
    owner = path.stat().st_uid if path.exists() else None
    if owner == user.uid:
        return None
    if owner:
        return f"{path} belongs to user {owner}"
    others = chosen_by_others(path)
    if owner is None:
        return None
    if others is not None:
        return f"others than root could have put {path} where it is, for {others} is not root's alone"
    for name in sorted(os.listdir(path)):
        if not _is_a_state_file(path / name):
            return f"{path / name} is no file of a device's"
    return None


def require_roots_alone(path: Path) -> None:
    """Raise StateError where root would keep a state in a place that others can change under it."""
    if (others := chosen_by_others(path)) is not None:
        raise StateError(
            f"{path}: root keeps no state where others can put something else, and {others} is not root's alone"
        )


def make_way(path: Path) -> None:
    """Make the folders above `path`, which only root can have chosen, for a user who is to pass through them.

    Raises:
        StateError: somebody was quicker.
        OSError: a folder cannot be made.
    """
    for folder in reversed(path.absolute().parents):
        try:
            folder.mkdir()
        except FileExistsError:
            require_roots_alone(folder)
        else:
            folder.chmod(_WAY_MODE)  # whatever the umask


def _is_a_state_file(path: Path) -> bool:
    status = path.lstat()
    return state_files.is_one(path.name) and stat.S_ISREG(status.st_mode) and status.st_nlink == 1


def holds_keys_of_root(path: Path) -> bool:
    """Whether there is a device's state that is root's: who gets that is not left to whoever owns another folder."""
    try:
        return (path / state_files.SECRET).lstat().st_uid == 0
    except OSError:
        return False


def hand_over(path: Path, user: User) -> None:
    """Root's folder for a state, made if there is none, belongs to `user`; one that is the user's stays as it is.

    All of it or nothing, and nothing of a folder that a process uses. There is no `obstacle`.

    Raises:
        StateError: the folder is in use, or open to others, or not what it was when it was looked at.
        OSError: it cannot be given.
    """
    if (path.exists() and path.stat().st_uid == user.uid) or chosen_by_others(path) is not None:
        return  # the user's own, or for the user to make
    make_way(path)
    with contextlib.closing(StateLock(path)):
        require_roots_alone(path)  # nobody was quicker than root to make it
        _give([*(file for file in path.iterdir() if _is_a_state_file(file)), path], user)


def _give(paths: Sequence[Path], user: User) -> None:
    given: list[tuple[Path, os.stat_result]] = []
    try:
        for path in paths:
            before = path.lstat()
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
            given.append((path, before))
    except OSError:
        for path, before in given:
            os.chown(path, before.st_uid, before.st_gid, follow_symlinks=False)
        raise
