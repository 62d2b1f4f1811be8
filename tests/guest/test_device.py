# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device as a guest sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ihsm.guest import Iommu
from ihsm.guest.errors import GuestEndedError
from support.guests import run_guest
from support.process import serve

pytestmark = pytest.mark.guest


@pytest.mark.parametrize(("iommu", "functions"), [(Iommu.OFF, 1), (Iommu.ON, 3)])
def test_lspci_understands_every_capability(iommu: Iommu, functions: int) -> None:
    resources = ["--resources", "2"]
    show = "lspci -vvv -d 1414:c003; ls /sys/class/iommu"
    done = run_guest(show, devices=functions, device_arguments=resources, iommu=iommu)
    assert done.status == 0, done.err
    for wanted in ("Encryption controller", "MSI-X: Enable- Count=32", "FLReset+", "Device Serial Number"):
        assert done.out.count(wanted) == functions
    assert done.out.count("[size=4K]") == 3 * functions
    for unwanted in ("unknown", "<?>", "access denied", "Unknown", "!!!"):
        assert unwanted not in done.out
    assert ("dmar0" in done.out) == (iommu is Iommu.ON)


def test_memory_that_is_not_shared_is_named_by_the_device(tmp_path: Path) -> None:
    # The last -object of an id cannot be replaced, so the guest gets its RAM from another, private one.
    private = ("-object", "memory-backend-ram,id=private,size=1G", "-machine", "memory-backend=private")
    with serve("--socket", str(tmp_path / "0.sock")) as device:
        done = run_guest(
            f"{sys.executable} -m ihsm info --device auto",
            sockets=(device.paths[0],),
            modules=["vfio_iommu_type1", "vfio-pci"],
            extra=private,
        )
        assert done.status != 0
        device.stop()
        errors = device.errors
    assert any("memory" in line and "share=on" in line for line in errors), errors


def test_a_socket_nobody_listens_on(tmp_path: Path) -> None:
    with pytest.raises(GuestEndedError, match=r"nobody\.sock"):
        run_guest("true", sockets=(tmp_path / "nobody.sock",))


def test_the_command_line_returns_the_commands_status() -> None:
    guest = [sys.executable, "-m", "ihsm", "guest", "--accel", "tcg", "--exec", "read word; echo $word; exit 9"]
    done = subprocess.run(guest, input="spoken\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "spoken\n", "")
