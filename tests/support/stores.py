# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Stores and keys for tests, with content that no device made; and children of fork() that do something with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ihsm.store import KeyRecord, KeyVersion, OwnerSecrets, Store, StoreDevice
from support import children

SECRETS: Final = OwnerSecrets(b"owner's key" * 16, b"credential's id!", b"credential's pin")
IDENTITY: Final = bytes(range(32))
NOBODY: Final = 65534


def a_version(mark: int = 0) -> KeyVersion:
    """A version that is told from others by its mark."""
    return KeyVersion(
        kind="p256",
        usages={"sign": b"masked %d" % mark},
        public=b"public %d" % mark,
        certificates=(b"leaf %d" % mark, b"root" * 40),
        attributes={"mark": mark},
    )


def a_key(label: str, mark: int = 0) -> KeyRecord:
    """A key of one version."""
    return KeyRecord(label, (a_version(mark),))


def new_store(root: Path, name: str = "default", *, pin: str | None = None, **changes: Any) -> Store:
    """A store without keys."""
    values: dict[str, Any] = {
        "device": StoreDevice.private(),
        "secrets": SECRETS,
        "masked_bk3": b"masked bk3",
        "bmk": b"bmk",
        "unwrapping_key": b"unwrapping key",
        "identity": IDENTITY,
    }
    return Store.create(name, pin=pin, root=root, **(values | changes))


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: content of files, None for folders."""
    return {
        os.fspath(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def in_child(work: Callable[[], Any], *, user: int | None = None) -> Any:
    """What `work` returns, or the exception it raises, in a child of fork(), as another user where that is given."""

    def guarded() -> Any:
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        try:
            return work()
        except Exception as error:
            return error

    return children.in_child(guarded)
