# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device as a process of its own: `ihsm serve` on a private socket."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ihsm.guest.errors import GuestError
from ihsm_abi.sockets import numbered_path

READY_LIMIT_S = 30.0
STOP_LIMIT_S = 5.0
_READY = "ready: "


class DeviceProcess:
    """A running `ihsm serve`; as a context manager it ends with the block."""

    def __init__(self, socket: Path, log: Path, arguments: Sequence[str] = (), count: int = 1) -> None:
        """`arguments`: further words for `ihsm serve`; its output goes to `log`."""
        self.sockets = tuple(numbered_path(socket, number) for number in range(count))
        self.log = log
        command = [str(Path(sys.executable).with_name("ihsm")), "serve", "--socket", str(socket)]
        counted = ["--count", str(count)] if count != 1 else []
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*command, *counted, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )

    def wait_ready(self) -> None:
        """Return when it says that it listens; raises GuestError when it ended instead."""
        deadline = time.monotonic() + READY_LIMIT_S
        while not any(line.startswith(_READY) for line in self.log.read_text(errors="replace").splitlines()):
            if self._process.poll() is not None:
                raise GuestError(f"ihsm serve ended with status {self._process.returncode}: {self.last_line()}")
            if time.monotonic() > deadline:
                raise GuestError(f"ihsm serve was not ready within {READY_LIMIT_S:.0f} s: {self.last_line()}")
            time.sleep(0.02)

    def last_line(self) -> str:
        """The last line it printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> DeviceProcess:
        """Wait until it is ready."""
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()
