# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where sockets of served functions lie and whether somebody serves them; `ihsm serve` and discovery agree on both."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from typing import Final

from ihsm_abi.control import SUFFIX

SOCKET_SUFFIX: Final = ".sock"
"""Suffix of a vfio-user socket in the default folder; its control socket appends `ihsm_abi.control.SUFFIX`."""
MAX_PATH_BYTES: Final = 107
"""Longest path of a Unix socket: sun_path holds 108 bytes with its NUL."""

_RANDOM_CHARACTERS: Final = 8
"""What `tempfile` appends to a prefix."""


def default_folder() -> Path:
    """`$XDG_RUNTIME_DIR/ihsm`, without that variable `/tmp/ihsm-UID`; whoever creates it gives it mode 0700."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # A relative path counts as none (XDG Base Directory Specification): it would name a folder for each current one.
    return Path(runtime, "ihsm") if os.path.isabs(runtime) else Path(f"/tmp/ihsm-{os.getuid()}")


def default_path(number: int) -> Path:
    """Socket number `number` (from 0) of the default folder."""
    return default_folder() / f"{number}{SOCKET_SUFFIX}"


def numbered_path(first: Path, number: int) -> Path:
    """Socket of function `number` when the first one was named: PATH, PATH.1, PATH.2, ..."""
    return first if number == 0 else first.with_name(f"{first.name}.{number}")


def is_listening(path: str | os.PathLike[str]) -> bool:
    """Whether somebody serves the function at a socket path, in whatever network namespace.

    Told by connecting: /proc/net/unix lists one namespace, and under the names that sockets were bound by. The control
    socket is asked first, for its server does not mind.

    Raises:
        OSError: the socket cannot be reached, such as one of another user.
    """
    return accepts(os.fspath(path) + SUFFIX) or accepts(path)


def accepts(path: str | os.PathLike[str]) -> bool:
    """Whether a process accepts connections on the socket `path`, or would, were its backlog not full.

    Raises:
        OSError: the socket cannot be reached, such as one of another user.
    """
    name = os.fsencode(path)
    if len(name) > MAX_PATH_BYTES:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(name)
        except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return False
        except BlockingIOError:
            return True
        return True


def private_parents(prefix: str, longest: str) -> list[str]:
    """Where a temporary folder of that prefix can be made with a socket of the name `longest` in it, best first.

    $TMPDIR if that is short enough; where it is not, or is no UTF-8, which QEMU does not take, $XDG_RUNTIME_DIR, /tmp,
    /var/tmp or /dev/shm. Whether one of them exists and can be written is not looked at.
    """
    parents = [os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm"]
    with contextlib.suppress(FileNotFoundError):  # nowhere that `tempfile` knows
        parents.insert(0, tempfile.gettempdir())
    room = MAX_PATH_BYTES - len(os.fsencode(f"/{prefix}{'x' * _RANDOM_CHARACTERS}/{longest}"))
    return [
        parent for parent in parents if os.path.isabs(parent) and len(os.fsencode(parent)) <= room and is_utf8(parent)
    ]


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether a path's bytes are UTF-8."""
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True
