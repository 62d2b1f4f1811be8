# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the device itself says of programs: how many commands it got, and which sessions are left."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from ihsm.embedded import EmbeddedDevice
from support.commands import run_json, uri
from support.kmod_run import KMOD_RUN, printed
from support.programs import HELPER, chardev_user, report
from support.waiting import until

pytestmark = pytest.mark.parametrize("via", ["notify", "preload"])
SUBMISSIONS = "cat /sys/bus/pci/devices/*/azihsm/global/total_submissions"


def status(device: EmbeddedDevice) -> Any:
    return run_json("status", "--device", uri(device))


def test_a_command_under_signals_is_sent_once(via: str) -> None:
    with EmbeddedDevice() as device:
        shell = f"{chardev_user()} --stage signals; {SUBMISSIONS}"
        *lines, submitted = printed("--socket", device.socket_path, "--via", via, "--", "sh", "-c", shell)
        assert lines == report("signals")
        assert status(device)["counters"]["hsm_commands"] == int(submitted)


def test_a_session_ends_with_the_program_that_is_killed(via: str) -> None:
    program = [str(chardev_user()), "--helper", HELPER, "--stage", "killed"]
    with EmbeddedDevice() as device:
        # The machine is kept until its input ends.
        shell = 'trap "" PIPE; "$@"; echo done; read line'
        command = [*KMOD_RUN, "--socket", str(device.socket_path), "--via", via, "--", "sh", "-c", shell, "-", *program]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            lines = [line.rstrip("\n") for line in iter(running.stdout.readline, "done\n")]
            until(lambda: not status(device)["module"]["sessions"], "an end of all sessions")
            assert status(device)["module"]["state"] == "ready"
            running.communicate("\n")
    assert lines == report("killed")
    assert running.returncode == 0
