# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""DMTF's requester judges a device that is served: over its socket, and in a guest over sysfs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from bootstrap import libspdm
from ihsm_abi.pci import DEVICE_ID, VENDOR_ID
from support.guests import run_guest
from support.process import serve
from support.waiting import HANG_S

pytestmark = pytest.mark.long
TESTS: Final = Path(__file__).parents[1]
JUDGE: Final = (sys.executable, os.fspath(TESTS / "programs" / "libspdm_judge.py"))
PATHS: Final = os.pathsep.join(map(os.fspath, (TESTS, TESTS.parent / "scripts")))


def test_over_the_socket(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "s"), "--count", "2") as server:
        uris = [f"vfio-user:{path}" for path in server.paths]
        done = subprocess.run(
            [*JUDGE, *uris], capture_output=True, text=True, timeout=HANG_S, env=os.environ | {"PYTHONPATH": PATHS}
        )
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.splitlines()
        assert first == second, "one device has one chain"
        assert server.stop() == 0
    assert server.errors == []


@pytest.mark.guest
def test_in_a_guest() -> None:
    libspdm.provide()  # here, for the guest has no network
    functions = f"$(lspci -Dnd {VENDOR_ID:x}:{DEVICE_ID:x} | sed 's/ .*//; s/^/pci:/')"
    done = run_guest(f"PYTHONPATH={PATHS} {' '.join(JUDGE)} {functions}", devices=2)
    assert done.status == 0, done.err
    first, second = done.out.splitlines()
    assert first == second
