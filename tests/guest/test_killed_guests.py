# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Guests killed at random points of their lives: the server survives, loses nothing, and serves the next one."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.driver import Controller
from ihsm.guest.errors import GuestEndedError
from support.process import ServeProcess, serve, settled
from support.waiting import HANG_S, first

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
LONGEST_LIFE_S = 30.0
GROWTH_KIB = 4096
"""Heap that may settle over the guests; a region table, thread or context that leaks per guest is many times that."""


def start_guest(socket: Path, shell: str) -> subprocess.Popen[bytes]:
    modules = ("--module", "vfio_iommu_type1", "--module", "vfio-pci")
    command = [sys.executable, "-m", "ihsm", "guest", "--accel", "tcg", "--socket", socket, *modules, "--exec", shell]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process has started, and those that they have."""
    children = ""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    for child in map(int, children.split()):
        yield child
        yield from descendants(child)


def qemu_of(guest: subprocess.Popen[bytes]) -> int:
    """The QEMU that runs the guest; others are started before it to be asked what they are."""

    def look() -> int | None:
        assert guest.poll() is None, f"ihsm guest ended with status {guest.returncode}"
        for process in descendants(guest.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"-kernel" in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0"):
                    return process
        return None

    return first(look, "QEMU", every_s=0.02)


def after_a_first_life(server: ServeProcess) -> tuple[int, int, int]:
    """What the server holds once a client has come, worked and gone: with the first controller AES workers start."""
    with VfioUserFunction(server.paths[0]) as function, Controller(function) as controller:
        Partition(controller).info()
    return settled(server)


def kill_guests(server: ServeProcess, count: int, seed: int) -> None:
    """Kill `count` guests, the longest-lived in the middle of a driver's traffic; nothing stays behind of them."""
    chance = random.Random(seed)
    shell = f"cd {ROOT} && python tests/guest/vfio_driver.py 1000 4"
    before = after_a_first_life(server)
    for _ in range(count):
        guest = start_guest(server.paths[0], shell)
        qemu = qemu_of(guest)
        time.sleep(chance.uniform(0.2, LONGEST_LIFE_S))
        os.kill(qemu, signal.SIGKILL)
        assert guest.wait(HANG_S) == GuestEndedError.exit_code
        assert server.process.poll() is None
        after = settled(server)
        assert after[:2] == before[:2]
        assert after[2] < before[2] + GROWTH_KIB, f"grew from {before[2]} to {after[2]} KiB"


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [2, 20])
def test_the_device_outlives_killed_guests(count: int, tmp_path: Path) -> None:
    with serve("--socket", str(tmp_path / "a.sock"), "--log-level", "error") as server:
        kill_guests(server, count, seed=2)  # the first of them late
        with VfioUserFunction(server.paths[0]) as function, Controller(function) as controller:
            assert Partition(controller).info().tables == 1
        assert server.stop() == 0
    assert not any("Traceback" in line for line in server.errors), "".join(server.errors)


def test_a_guest_ends_with_its_starter(tmp_path: Path) -> None:
    with serve("--socket", str(tmp_path / "a.sock"), "--log-level", "error") as server:
        guest = start_guest(server.paths[0], "sleep 600")
        pidfd = os.pidfd_open(qemu_of(guest))
        guest.kill()
        guest.wait()
        assert select.select([pidfd], [], [], HANG_S)[0], "QEMU outlived ihsm guest"
        os.close(pidfd)
        settled(server)
