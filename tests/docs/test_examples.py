# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs in docs/examples, run as a user would run them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from ihsm.bus import VfioUserFunction
from ihsm.errors import DeviceNotFoundError
from support.waiting import HANG_S, until

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def answers(path: Path) -> bool:
    """Whether somebody listens; the socket file is there a moment earlier."""
    try:
        VfioUserFunction(path, timeout_s=HANG_S).close()
    except DeviceNotFoundError:
        return False
    return True


def test_the_example_device_sums_guest_memory(socket_folder: Path) -> None:
    path = socket_folder / "example"
    process = subprocess.Popen([sys.executable, EXAMPLES / "vfu_device.py", path])
    try:
        until(lambda: process.poll() is not None or answers(path), "a device that listens")
        for _ in range(2):
            with VfioUserFunction(path, timeout_s=HANG_S) as client:
                event = os.eventfd(0, os.EFD_NONBLOCK)
                client.enable_interrupts([event])
                buffer = client.allocate_arena(1 << 16).allocate(5000)
                buffer.view[:5000] = 3
                for address, length, expected in ((buffer.iova, 5000, 15000), (buffer.iova + 4990, 10, 30), (1, 9, 0)):
                    client.write_bar(0, 0, 8, address)
                    client.write_bar(0, 8, 4, length)
                    assert select.select([event], [], [], HANG_S)[0]
                    assert os.eventfd_read(event) == 1
                    assert client.read_bar(0, 12, 4) == expected
                client.disable_interrupts()
                os.close(event)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_key_made_in_a_private_device_signs() -> None:
    example = [sys.executable, EXAMPLES / "sign_in_hsm.py"]
    done = subprocess.run(example, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("verified a signature made by Ecc384Private key")
