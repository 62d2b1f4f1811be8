# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A private device for the duration: `ihsm serve` as a subprocess, ended with its user."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ihsm.bus.discovery import listening_sockets
from ihsm.closing import Closing
from ihsm.errors import EmbeddedDeviceError
from ihsm_abi.control import SUFFIX as CONTROL_SUFFIX
from ihsm_abi.sockets import SOCKET_SUFFIX, numbered_path, private_folder

_log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
POLL_INTERVAL_S: Final = 0.01
LOG_TAIL_BYTES: Final = 2000
PR_SET_PDEATHSIG: Final = 1
MODULE_OPTIONS: Final = ("-P", "-m")
"""For the interpreter: run a module, and leave the current folder, whose files are anybody's, off `sys.path`."""
_FIRST: Final = f"0{SOCKET_SUFFIX}"


class EmbeddedDevice(Closing):
    """A device process that nobody else knows of."""

    def __init__(self, arguments: Sequence[str] = (), count: int = 1) -> None:
        """Start it with `count` functions and wait until it listens; `arguments` are further options of `ihsm serve`.

        Raises:
            EmbeddedDeviceError: it ended or did not listen in time; the message has its last lines.
        """
        try:
            self._folder = private_folder(f"{numbered_path(Path(_FIRST), count)}{CONTROL_SUFFIX}")
        except OSError as error:
            raise EmbeddedDeviceError(f"no folder for a private device's sockets: {error.strerror or error}") from None
        self.socket_path = self._folder / _FIRST
        self._log_path = self._folder / "log"
        self.socket_paths = tuple(numbered_path(self.socket_path, number) for number in range(count))
        command = [sys.executable, *MODULE_OPTIONS, "ihsm", "serve", "--socket", os.fspath(self.socket_path)]
        command += ["--count", str(count), *arguments]
        _log.debug("starting %s", " ".join(command))
        with self._log_path.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for us: the device must outlive our teardown
                preexec_fn=die_with_parent,
            )
        try:
            self._wait_until_listening()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the device."""
        return self._process.pid

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        # the control socket comes last
        awaited = {f"{path}{suffix}" for path in self.socket_paths for suffix in ("", CONTROL_SUFFIX)}
        while not awaited <= listening_sockets():
            status = self._process.poll()
            if status is not None:
                raise EmbeddedDeviceError(f"the embedded device ended with status {status}: {self._last_lines()}")
            if time.monotonic() > deadline:
                raise EmbeddedDeviceError(
                    f"the embedded device did not listen within {START_TIMEOUT_S:g} s: {self._last_lines()}"
                )
            time.sleep(POLL_INTERVAL_S)

    def _last_lines(self) -> str:
        text = self._log_path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "it printed nothing"

    def close(self) -> None:
        """End the process and remove its files; harmless the second time."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                _log.warning("the embedded device did not end in %g s and is killed", STOP_TIMEOUT_S)
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def child_environment() -> dict[str, str]:
    """Our environment for a Python of ours; without empty entries of PYTHONPATH, which mean the current folder."""
    environment = dict(os.environ)
    if path := os.pathsep.join(filter(None, environment.pop("PYTHONPATH", "").split(os.pathsep))):
        environment["PYTHONPATH"] = path
    return environment


_LIBC: Final = ctypes.CDLL(None)


def die_with_parent() -> None:
    """For `preexec_fn`: have the kernel end this process when the thread that started it ends."""
    # Between fork and exec: nothing but this system call, so that no lock of another thread is needed.
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
