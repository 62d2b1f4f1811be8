# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where stores are: folders below the user's data folder (XDG Base Directory Specification 0.8)."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from ihsm.errors import StoreError, StorePermissionError
from ihsm.store.files import sync_folder_at
from ihsm.store.labels import check_name

NAME_VARIABLE: Final = "IHSM_STORE"
"""Environment variable with the name of the store that is meant when none is named."""
DEFAULT_NAME: Final = "default"
"""Name of the store that is meant when the variable has none either."""
_DATA_VARIABLE: Final = "XDG_DATA_HOME"


def default_name() -> str:
    """The store that is meant when none is named: $IHSM_STORE, or "default"; raises ArgumentError."""
    name = os.environ.get(NAME_VARIABLE)
    return check_name("store", f"${NAME_VARIABLE}", name) if name else DEFAULT_NAME


def default_root() -> Path:
    """The folder of all stores: $XDG_DATA_HOME/ihsm, or ~/.local/share/ihsm.

    Raises:
        StoreError: the user has no home folder.
    """
    data = os.environ.get(_DATA_VARIABLE, "")
    # The specification has relative paths ignored.
    return (Path(data) if data.startswith("/") else _home() / ".local/share") / "ihsm"


def _home() -> Path:
    home = os.environ.get("HOME", "")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            home = ""
    if not home.startswith("/"):
        raise StoreError(f"store: user {os.getuid()} has no home folder: set HOME or {_DATA_VARIABLE} to a path")
    return Path(home)


def make_root(root: Path) -> None:
    """Make the folder of all stores, and what it lies in, private and durable; raises OSError, or as `sync_folder`."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        sync_folder_at(folder.parent)


def check_root(root: Path) -> None:
    """Refuse a folder in which others can exchange stores.

    Raises:
        FileNotFoundError: there is none.
        StorePermissionError: others may write to it, or it is somebody's who is neither this user nor root.
    """
    status = root.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise StorePermissionError(f"{root}: belongs to user {status.st_uid}, you are user {os.geteuid()}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        raise StorePermissionError(
            f"{root}: mode {stat.S_IMODE(status.st_mode):04o} lets others write: chmod go-w '{root}'"
        )
