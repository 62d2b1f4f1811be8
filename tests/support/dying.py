# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program that uses a store and is killed in the middle: `python -m support.dying ROOT WORK COUNT`.

It prints what it has done, a line each, after the call that did it has returned. It kills itself at the COUNT-th thing
that it asks of the system, as told by audit events of Python: between any two writes, renames and messages to it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm import Hsm
from ihsm.api.ec_key import EcPrivateKey

WATCHED: Final = frozenset(
    {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.listdir", "os.chmod", "fcntl.flock",
     "socket.connect", "socket.sendmsg", "socket.__new__", "subprocess.Popen", "mmap.__new__"}
)  # fmt: skip


def die_at(count: int) -> None:
    """Be killed at that event from now on."""
    left = count

    def look(event: str, _: object) -> None:
        nonlocal left
        if event in WATCHED:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def say(text: str) -> None:
    """Past every buffer."""
    os.write(1, text.encode() + b"\n")


def create(root: Path) -> None:
    """Make a store."""
    with Hsm.create(device="private", root=root):
        say("created")


def use(root: Path) -> None:
    """Make keys, turn them, sign with them."""
    with Hsm.open(root=root) as hsm:
        say("opened")
        for number in range(8):
            label = f"{os.getpid()}-{number}"
            key = hsm.generate(label, "p256")
            say(f"made {label}")
            assert isinstance(key, EcPrivateKey)
            key.sign(b"m", ec.ECDSA(hashes.SHA256()))
            hsm.rotate(label)
            say(f"turned {label}")
            hsm.rename(label, f"{label}-renamed")
            say(f"renamed {label}")
            hsm.delete(f"{label}-renamed@1")
            say(f"deleted {label}")


WORK: Final[dict[str, Callable[[Path], None]]] = {"create": create, "use": use}

if __name__ == "__main__":
    work = WORK[sys.argv[2]]
    die_at(int(sys.argv[3]))
    work(Path(sys.argv[1]))
    say("survived")
