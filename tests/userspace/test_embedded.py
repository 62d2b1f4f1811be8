# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The private device: there for its user only, and gone with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ihsm import embedded
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import EmbeddedDeviceError
from ihsm.uri import open_controller
from ihsm_abi.hsm_queue import ControlKind
from support.process import alive
from support.waiting import HANG_S, until

ORPHAN = """
import signal
from ihsm.embedded import EmbeddedDevice
print(EmbeddedDevice().pid, flush=True)
signal.pause()
"""


def test_auto_without_devices_starts_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", os.fspath(tmp_path))
    monkeypatch.setattr("ihsm.bus.discovery.find_pci", lambda: [])
    with open_controller() as controller:
        assert controller.identity.vendor_id == 0x1414
        assert controller.exchange(b"no message", ControlKind.NONE, None).message


def test_it_ends_with_its_user() -> None:
    with EmbeddedDevice(["--resources", "2"]) as device:
        assert alive(device.pid)
        folder = device.socket_path.parent
    assert not alive(device.pid)
    assert not folder.exists()


def test_it_does_not_outlive_a_killed_user() -> None:
    user = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    pid = int(user.stdout.readline())
    user.send_signal(signal.SIGKILL)
    user.wait()
    user.stdout.close()
    until(lambda: not alive(pid), "the end of the device")


def test_it_outlives_the_thread_that_started_it() -> None:
    made: list[EmbeddedDevice] = []
    starter = threading.Thread(target=lambda: made.append(EmbeddedDevice()))
    starter.start()
    starter.join(HANG_S)
    until(lambda: not Path(f"/proc/self/task/{starter.native_id}").exists(), "the end of the thread")
    with made[0] as device, open_controller(f"vfio-user:{device.socket_path}") as controller:
        assert controller.identity.vendor_id == 0x1414


def test_one_that_does_not_start_says_why() -> None:
    with pytest.raises(EmbeddedDeviceError, match=r"ended with status 2.*--resources"):
        EmbeddedDevice(["--resources", "0"])


def test_one_that_does_not_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.0)
    with pytest.raises(EmbeddedDeviceError, match="did not listen"):
        EmbeddedDevice()
