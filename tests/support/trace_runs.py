# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings made by `ihsm trace` as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ihsm.control import ControlClient
from ihsm.embedded import EmbeddedDevice
from support.commands import uri
from support.waiting import HANG_S, until


def command(device: EmbeddedDevice, *arguments: str) -> list[str]:
    """`ihsm trace` of a device."""
    return [sys.executable, "-P", "-m", "ihsm", "trace", "--device", uri(device), *arguments]


@contextmanager
def recorder(device: EmbeddedDevice, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """`ihsm trace` as a process of its own, from when it records on; killed if the test fails.

    Its file may not be there yet. `options` are those of `subprocess.Popen`.
    """
    with subprocess.Popen(command(device, *arguments), **options) as process:
        try:
            until_recording(device)
            yield process
        except BaseException:
            process.kill()
            raise


def until_written(file: Path, text: bytes) -> None:
    """Wait until a recording has a text."""
    until(lambda: file.exists() and text in file.read_bytes(), f"{text!r} in the file")


def until_recording(device: EmbeddedDevice) -> None:
    """Wait until somebody records."""
    with ControlClient(device.socket_path, HANG_S) as client:
        until(lambda: client.mark("begin"), "a reader of the trace")


def recorded_by_command(device: EmbeddedDevice, file: Path, run: Callable[[], object], *arguments: str) -> None:
    """Record what a device does while `run` runs, and a little more, into a file."""
    with recorder(device, "--write", str(file), *arguments) as process:
        run()
        with ControlClient(device.socket_path, HANG_S) as client:
            client.mark("end of the run")
        until_written(file, b"end of the run")
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == 0
