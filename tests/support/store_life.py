# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program in a process of its own that has a store with a PIN and a private device, and makes keys of every kind."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any, Final

from ihsm import Hsm
from ihsm.driver import Controller
from ihsm_abi.control import SUFFIX
from support.commanded import Commanded

KINDS: Final = ("p256", "p384", "p521", "aes128", "aes192", "aes256", "aes256-gcm")
NAME: Final = "mine"


class StoreLife(Commanded):
    """The commands."""

    def create(self, root: str, pin: str) -> dict[str, Any]:
        """The store; its device's process."""
        self.hsm = Hsm.create(NAME, pin=pin, root=Path(root))
        device: Any = self.hsm.connection.link.device
        assert isinstance(device, Controller)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(device.function.uri.removeprefix("vfio-user:") + SUFFIX)
            pid, _, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return {"pid": pid}

    def make(self) -> dict[str, Any]:
        """Keys of every kind."""
        for kind in KINDS:
            self.hsm.generate(kind, kind)
        return {}

    def close(self) -> dict[str, Any]:
        """Let go of the device, which ends."""
        self.hsm.close()
        return {}


if __name__ == "__main__":
    StoreLife().obey()
