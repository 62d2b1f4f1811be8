# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""This process stands still for a while, as one that is stopped from outside does (SIGSTOP)."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

HELPER: Final = """
import os, select, signal, sys, time
device = int(sys.argv[1])
if os.getppid() == device:
    os.kill(device, signal.SIGSTOP)
    time.sleep(0.01)  # until all its threads stand
    os.write(1, b".")  # read when the device goes on, whoever has it go on
    select.select([0], [], [], float(sys.argv[2]))  # its end: the device is gone, or goes on
    if os.getppid() == device:
        os.kill(device, signal.SIGCONT)
"""
"""A stopped process cannot wake itself. Who ends this child early leaves the device standing, until a SIGCONT."""


def pause(seconds: float) -> None:
    """Stop all threads of the process, and return when they have gone on.

    Raises:
        OSError: the system has no process for the helper.
    """
    command = [sys.executable, "-I", "-S", "-c", HELPER, str(os.getpid()), str(seconds)]
    # A session of its own: a terminal's signals for the device's group are not for it.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as helper:
        assert helper.stdout is not None
        helper.stdout.read(1)
