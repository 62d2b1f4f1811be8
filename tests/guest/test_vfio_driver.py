# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver inside a guest, over the kernel's VFIO behind a virtual IOMMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ihsm_abi.doe import OBJECT_TYPES, PCI_SIG

ROOT = Path(__file__).parents[2]
HIDDEN_BY_VFIO = {"data object exchange", "integrity and data encryption"}
"""Extended capabilities of the device that Linux's vfio_pci_config.c does not know, so that it leaves them out."""


def in_guest(command: str) -> str:
    """Standard output of a shell command in a guest that has the device, and loads by itself what VFIO needs."""
    guest = [sys.executable, "-m", "ihsm", "guest", "--exec", f"cd {ROOT} && {command}"]
    done = subprocess.run(guest, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def records(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def driver(runs: int, arena_mib: int) -> str:
    return f"{sys.executable} tests/guest/vfio_driver.py {runs} {arena_mib}"


@pytest.mark.guest
@pytest.mark.timeout(3600)
def test_bring_up_traffic_reset_and_teardown_in_a_guest() -> None:
    """And what is hidden of configuration space meanwhile: the kernel keeps the mailbox from whoever uses VFIO."""
    found = records(in_guest(driver(2, 4)))
    assert [run["interrupts"] for run in found] == [True, False]
    assert all(len(run["seen"]) == 2 for run in found)
    assert all(run["child_refused"] for run in found)
    for shown in (run["shown"] for run in found):
        assert "data object exchange" in shown["sysfs"]
        assert shown["discovered"] == [[PCI_SIG, type] for type in OBJECT_TYPES]
        assert shown["vfio"] == [name for name in shown["sysfs"] if name not in HIDDEN_BY_VFIO]
        assert "no mailbox for data objects (DOE): the device has none, or VFIO hides it" in shown["refused"]


@pytest.mark.guest
@pytest.mark.long
@pytest.mark.timeout(7200)
def test_fifty_runs_with_small_arenas_and_one_with_the_largest() -> None:
    found = records(in_guest(f"{driver(50, 4)} && {driver(1, 64)}"))
    assert len(found) == 51
    assert all(len(run["seen"]) == 2 for run in found)
