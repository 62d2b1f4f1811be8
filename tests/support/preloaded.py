# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs of the host that use the driver of `host_driver` through the preload library; the server is in the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ihsm.closing import Closing
from ihsm_kmod.host.files import HostFiles
from ihsm_kmod.host.preload import PreloadServer, preload_environment
from ihsm_kmod.kernel.completion import wait_for_completion
from ihsm_kmod.kernel.kernel import Kernel
from support.host_driver import ToyModule
from support.waiting import HANG_S


class Preloaded(Closing):
    """A kernel with the driver, its files, and a server of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernel = Kernel()
        self.driver = self.kernel.load(ToyModule)
        shadow = folder / "shadow"
        shadow.mkdir()
        self.server_path = folder / "server"
        self.files = HostFiles(self.kernel, shadow)
        self.server = PreloadServer(self.files, self.server_path)
        self.environment = os.environ | preload_environment(self.server_path, shadow, os.environ)

    def close(self) -> None:
        self.server.close()
        self.files.close()
        self.kernel.close()

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        """A program that runs meanwhile."""
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *command: str | Path) -> str:
        """Output of a program; AssertionError with what it says if it fails."""
        with self.start(*command) as program:
            output, errors = program.communicate(timeout=HANG_S)
        assert program.returncode == 0, f"status {program.returncode}: {errors}"
        assert errors == ""
        return output

    def shell(self, script: str) -> str:
        """Output of a script of the shell."""
        return self.run("/bin/bash", "-c", script)

    def wait_for_waiter(self) -> None:
        """Return when a program waits in the driver."""
        self.kernel.run(wait_for_completion, self.driver.waiting)
