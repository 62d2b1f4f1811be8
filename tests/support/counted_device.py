# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device whose process tells how many objects it has, without a collector of cycles that would take what is left."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

from ihsm_device.commands import Command
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.server import Server
from support.commanded import Commanded

COUNTED = ("ihsm_", "asyncio.streams")
"""Modules whose objects are counted. A transport of asyncio's own is a circle, of the same size for any client."""
OF_THREADS = Command
"""Not counted: each thread has its last one until its next."""


class CountedDevice(Commanded):
    """The commands."""

    def serve(self, path: str) -> None:
        """Serve one function there."""
        device = HsmDevice(DeviceOptions())
        self.server = Server([Path(path)], lambda index: SecurityModule.open(device, index, 2), resources=2)
        self.server.start()
        gc.collect()
        gc.disable()

    def count(self) -> dict[str, int]:
        """Objects by type, of those that may be in cycles."""
        kinds = map(type, gc.get_objects())
        return Counter(
            f"{kind.__module__}.{kind.__qualname__}"
            for kind in kinds
            if kind.__module__.startswith(COUNTED) and kind is not OF_THREADS
        )


if __name__ == "__main__":
    CountedDevice().obey()
