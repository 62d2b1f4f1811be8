# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The folder of all stores: how a store appears there, and leaves it, by one rename.

A store that is being made is a folder named .new-*, one that is being removed .gone-*; both are locked by who works on
them, so that what a killed program left is known by its lock, which is free, and removed by the next change.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ihsm.errors import StoreError, StoreExistsError
from ihsm.locks import try_lock, unlock
from ihsm.store.files import Folder, errors_of, locked, open_folder
from ihsm.store.places import check_root, default_root, make_root

_ROOT_LOCK: Final = ".lock"
_NEW: Final = ".new-"
_GONE: Final = ".gone-"


@contextlib.contextmanager
def root_locked(root: Path) -> Iterator[Folder]:
    """The folder of all stores, made if there is none, for a change of its names by this thread alone.

    Raises:
        StoreError: it cannot be had.
    """
    with errors_of(root, "used"):
        make_root(root)
        check_root(root)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with Folder(root, descriptor) as folder, locked(folder, _ROOT_LOCK):
            _sweep(folder)
            yield folder


@contextlib.contextmanager
def staging(root: Path | None = None) -> Iterator[Path]:
    """A private folder beside the stores, on the same file system, that is removed at the end.

    For what becomes part of a new store, such as the state of the private device that it is made with.

    Raises:
        StoreError: there is no place for it.
    """
    root = root or default_root()
    with contextlib.ExitStack() as held:
        with root_locked(root), errors_of(root, "used"):
            path = root / f"{_NEW}{secrets.token_hex(8)}"
            os.mkdir(path, 0o700)
            held.callback(shutil.rmtree, path, ignore_errors=True)
            folder = held.enter_context(open_folder(path))
            try_lock(folder.descriptor)
            held.callback(unlock, folder.descriptor)
        yield path


def appear(root: Path, path: Path, name: str) -> None:
    """Give a folder made by `staging` a store's name.

    Raises:
        StoreExistsError: there is a store of this name.
        StoreError: the system cannot.
    """
    with root_locked(root) as folder:
        require_free(folder, name)
        folder.rename(path.name, name)


def require_free(root: Folder, name: str) -> None:
    """Refuse the name of what is there; raises StoreExistsError."""
    if root.has(name):
        raise name_taken(root.path / name)


def name_taken(store: str | Path) -> StoreExistsError:
    """The error of who wants the name of a store that is there."""
    return StoreExistsError(
        f"{store}: there is a store of this name, which is not replaced: take another name, or rename or delete that "
        "store (`ihsm store`)"
    )


def vanish(root: Folder, name: str) -> Path:
    """Take a store's name away, durably; the caller has the root's lock and removes what is at the returned path."""
    gone = f"{_GONE}{secrets.token_hex(8)}"
    root.rename(name, gone)
    return root.path / gone


def _sweep(root: Folder) -> None:
    """Remove what killed programs left: nobody has it locked."""
    for name in root.names():
        if name.startswith((_NEW, _GONE)):
            with contextlib.suppress(OSError, StoreError), open_folder(root.path / name) as folder:
                if try_lock(folder.descriptor):
                    shutil.rmtree(folder.path, ignore_errors=True)
