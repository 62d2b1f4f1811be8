# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A store as a tar file (POSIX.1-2001, pax), which appears whole or not at all and replaces nothing."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ihsm.errors import StoreExistsError
from ihsm.store.files import LOCK, TEMPORARY, Folder, errors_of, sync_folder_at, write_all

_LONGEST_FILE: Final = 16 << 20
_LOCK_SUFFIX: Final = ".lock"
"""Of what programs lock that use the store's private device."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def pack(top: Folder, name: str, parts: list[Folder]) -> bytes:
    """The folder `top` as `name`, and its folders `parts`, without locks and what was not finished."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in (top, *parts):
            place = name if folder is top else f"{name}/{folder.path.name}"
            tar.addfile(_entry(place, tarfile.DIRTYPE, 0o700, os.fstat(folder.descriptor)))
            inside = {part.path.name for part in parts} if folder is top else set()
            for file in sorted(set(folder.names()) - inside):
                if file == LOCK or file.endswith((_LOCK_SUFFIX, TEMPORARY)):
                    continue
                data = folder.read(file, _LONGEST_FILE)
                status = os.stat(file, dir_fd=folder.descriptor, follow_symlinks=False)
                entry = _entry(f"{place}/{file}", tarfile.REGTYPE, 0o600, status)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()


def _entry(name: str, kind: bytes, mode: int, status: os.stat_result) -> tarfile.TarInfo:
    """Owner and group are left at 0 and nameless: who unpacks it, root included, has what the store takes."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, int(status.st_mtime)
    return entry


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not be there, private to the user, whole or not at all.

    Raises:
        StoreExistsError: there is something of this name.
        StoreError: it cannot be written.
    """
    if os.path.lexists(path):
        raise _exists(path)
    with errors_of(path, "written"), _beside(path) as (descriptor, temporary):
        write_all(descriptor, data)
        os.fsync(descriptor)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise _exists(path) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without links, such as that of a memory stick: nothing better than looking first.
            if os.path.lexists(path):
                raise _exists(path) from None
            os.rename(temporary, path)
        sync_folder_at(path.parent)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[int, Path]]:
    temporary = path.parent / f".ihsm-{secrets.token_hex(8)}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor, temporary
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def _exists(path: Path) -> StoreExistsError:
    return StoreExistsError(f"{path}: is there already, and is not replaced")
