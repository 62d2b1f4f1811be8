# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who a server is: the user that it becomes when root starts it, and the capabilities that it gives up."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ihsm_abi.libc import LIBC, checked
from ihsm_device.errors import NoSuchUser

USER_NAME: Final = "ihsm"
"""Whom a server becomes that root has started, where the system has a user of this name."""
_DYNAMIC_UIDS: Final = range(61184, 65519)
"""Users that exist as long as a service runs, by the rules of systemd's DynamicUser= (uids and gids, systemd.io)."""
LOOKOUT: Final = 65519
"""The last of those: for processes that look at clients of a device that root has started."""
CAP_SYS_PTRACE: Final = 1 << 19
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_MAX_CAPABILITIES: Final = 64


@dataclass(frozen=True, slots=True)
class User:
    """Who owns the process and what it makes."""

    uid: int
    gid: int


def chosen_user(name: str | None, folders: Sequence[Path], seed: str) -> User:
    """Whom root's server becomes: `name` or number, or else who owns a folder, the user `ihsm`, or one of its own.

    Of the `folders`, which are those of the state and of the sockets, the first counts that is not root's.

    `seed` decides which one of its own, so that the same command becomes the same user.

    Raises:
        NoSuchUser: there is no user `name`.
    """
    if name is not None:
        return _named(name)
    for folder in folders:
        with contextlib.suppress(OSError):
            if (status := folder.stat()).st_uid:
                return _named(str(status.st_uid))
    try:
        return _named(USER_NAME)
    except NoSuchUser:
        uid = _unused_uid(zlib.crc32(os.fsencode(seed)))
        return User(uid, uid)


def _named(name: str) -> User:
    try:
        found = pwd.getpwuid(int(name)) if _is_number(name) else pwd.getpwnam(name)
    except KeyError:
        if _is_number(name):
            return User(int(name), int(name))
        raise NoSuchUser(name) from None
    return User(found.pw_uid, found.pw_gid)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _unused_uid(seed: int) -> int:
    taken = {entry.pw_uid for entry in pwd.getpwall()} | set(_running_uids())
    count = len(_DYNAMIC_UIDS)
    for number in range(count):
        if (uid := _DYNAMIC_UIDS[(seed + number) % count]) not in taken:
            return uid
    return _DYNAMIC_UIDS[seed % count]


def _running_uids() -> Iterator[int]:
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                yield process.stat().st_uid


def obstacle(user: User, written: Sequence[Path], entered: Sequence[Path]) -> Path | None:
    """The first folder in which the user cannot make and remove files, or that it cannot enter; None: all will do."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        wanted = [*((path, os.W_OK | os.X_OK) for path in written), *((path, os.X_OK) for path in entered)]
        return next((path for path, mode in wanted if not os.access(path, mode, effective_ids=True)), None)
    finally:
        os.seteuid(os.getuid())
        os.setegid(os.getgid())
        os.setgroups(groups)


def become(user: User) -> None:
    """Be this user from now on, in all threads, and nobody else; raises OSError."""
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def lock_as_much_as_wanted() -> None:
    """Keep the right to lock memory beyond the capability for it, where the limit may be raised."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def empty_bounding_set() -> None:
    """Nothing that is executed from now on gets a capability, whatever it is (capabilities(7)).

    Raises:
        OSError: the process may not give that up, for it lacks CAP_SETPCAP, as after it has left root.
    """
    for capability in range(_MAX_CAPABILITIES):
        if LIBC.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) == 1:
            checked(LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))


def keep_capabilities(kept: int = 0) -> None:
    """The calling thread, and all that it will start, have no capability but `kept`, a bit each; raises OSError."""
    checked(LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    low, high = kept & 0xFFFF_FFFF, kept >> 32
    sets = struct.pack("=6I", low, low, 0, high, high, 0)
    checked(LIBC.capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), sets))


def become_but_keep(user: User, kept: int) -> None:
    """Be this user with some of root's capabilities; raises OSError."""
    checked(LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    become(user)
    keep_capabilities(kept)


def capabilities() -> int:
    """Effective ones of the calling thread, a bit each."""
    status = Path("/proc/thread-self/status").read_text()
    return next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
