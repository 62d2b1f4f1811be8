# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A private device for the duration: `ihsm serve` as a subprocess, ended with its user."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ihsm.closing import Closing
from ihsm.errors import EmbeddedDeviceError, ForkedError
from ihsm.kept import MODULE_OPTIONS, Kept
from ihsm_abi.control import SUFFIX as CONTROL_SUFFIX
from ihsm_abi.sockets import SOCKET_SUFFIX, numbered_path

_log = logging.getLogger(__name__)

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
POLL_INTERVAL_S: Final = 0.01
LOG: Final = "log"
LOG_TAIL_BYTES: Final = 2000
READY: Final = b"ready:"
"""Begins the line that `ihsm serve` prints once every socket is served."""
_FIRST: Final = f"0{SOCKET_SUFFIX}"


@contextlib.contextmanager
def _start_errors() -> Iterator[None]:
    """What the system refuses is told as EmbeddedDeviceError, which is an OSError itself and stays as it is."""
    try:
        yield
    except EmbeddedDeviceError:
        raise
    except OSError as error:
        raise EmbeddedDeviceError(f"the embedded device cannot be started: {error.strerror or error}") from None


class EmbeddedDevice(Closing):
    """A device process that nobody else knows of."""

    def __init__(self, arguments: Sequence[str] = (), count: int = 1) -> None:
        """Start it with `count` functions and wait until it listens; `arguments` are further options of `ihsm serve`.

        Raises:
            EmbeddedDeviceError: it ended or did not listen in time; the message has its last lines.
        """
        with _start_errors():
            self._kept = Kept("ihsm-", socket_name=f"{numbered_path(Path(_FIRST), count)}{CONTROL_SUFFIX}")
        self.socket_path = self._kept.folder / _FIRST
        self.socket_paths = tuple(numbered_path(self.socket_path, number) for number in range(count))
        command = [sys.executable, *MODULE_OPTIONS, "ihsm", "serve", "--socket", os.fspath(self.socket_path)]
        command += ["--count", str(count), *arguments]
        self._pid: int | None = None
        _log.debug("starting %s", " ".join(command))
        try:
            with _start_errors():
                self._pid = self._kept.start(command, logged=(1, 2), log=LOG)
                self._wait_until_listening()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the device."""
        assert self._pid is not None
        return self._pid

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not any(line.startswith(READY) for line in self._log_bytes().splitlines()):
            status = self._kept.wait(POLL_INTERVAL_S)
            if status is not None:
                raise EmbeddedDeviceError(f"the embedded device ended with status {status}: {self._last_lines()}")
            if time.monotonic() > deadline:
                raise EmbeddedDeviceError(
                    f"the embedded device did not listen within {START_TIMEOUT_S:g} s: {self._last_lines()}"
                )

    def _log_bytes(self) -> bytes:
        try:
            return (self._kept.folder / LOG).read_bytes()
        except FileNotFoundError:
            return b""

    def _last_lines(self) -> str:
        text = self._log_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return text.splitlines()[-1] if text else "it printed nothing"

    def close(self) -> None:
        """End the process and remove its files; harmless the second time, and in a fork of its user."""
        try:
            self._kept.send_signal(signal.SIGTERM)
        except ForkedError:
            return
        if self._pid is not None and self._kept.wait(STOP_TIMEOUT_S) is None:
            _log.warning("the embedded device did not end in %g s and is killed", STOP_TIMEOUT_S)
        self._kept.close()
