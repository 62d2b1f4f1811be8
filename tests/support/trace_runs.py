# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings made by `ihsm trace` as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ihsm.control import ControlClient
from ihsm.embedded import EmbeddedDevice
from support.commands import uri
from support.waiting import HANG_S, until


def command(device: EmbeddedDevice, *arguments: str) -> list[str]:
    """`ihsm trace` of a device."""
    return [sys.executable, "-P", "-m", "ihsm", "trace", "--device", uri(device), *arguments]


def until_recording(device: EmbeddedDevice) -> None:
    """Wait until somebody records."""
    with ControlClient(device.socket_path, HANG_S) as client:
        until(lambda: client.mark("begin"), "a reader of the trace")


def recorded_by_command(device: EmbeddedDevice, file: Path, run: Callable[[], object], *arguments: str) -> None:
    """Record what a device does while `run` runs, and a little more, into a file."""
    with subprocess.Popen(command(device, "--write", str(file), *arguments)) as recorder:
        until_recording(device)
        run()
        with ControlClient(device.socket_path, HANG_S) as client:
            client.mark("end of the run")
        until(lambda: b"end of the run" in file.read_bytes(), "the last record")
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(HANG_S) == 0
