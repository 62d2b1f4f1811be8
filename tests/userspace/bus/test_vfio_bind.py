# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Binding to vfio-pci over a folder that stands for sysfs; the real one is used in guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.bus import vfio_bind, vfio_kernel
from ihsm.bus.vfio_bind import VfioBinding
from ihsm.bus.vfio_kernel import KernelVfioFunction
from ihsm.errors import BindError, DeviceNotFoundError

BDF = "0000:00:04.0"


class Sysfs:
    """The parts of /sys/bus/pci and /dev/vfio that binding touches."""

    def __init__(self, root: Path) -> None:
        self.bus = root / "pci"
        self.device = self.bus / "devices" / BDF
        self.dev = root / "vfio"
        for folder in (self.device, self.bus / "drivers" / "vfio-pci", self.bus / "drivers" / "other", self.dev):
            folder.mkdir(parents=True)
        (root / "12").mkdir()
        (self.device / "iommu_group").symlink_to(root / "12")
        (self.dev / "12").touch()

    def bind(self, driver: str) -> None:
        (self.device / "driver").symlink_to(self.bus / "drivers" / driver)


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysfs:
    made = Sysfs(tmp_path)
    monkeypatch.setattr(vfio_bind, "SYSFS_PCI", made.bus)
    monkeypatch.setattr(vfio_bind, "VFIO_DEV", made.dev)
    monkeypatch.setattr(vfio_kernel, "VFIO_DEV", made.dev)
    monkeypatch.setattr(vfio_bind, "NODE_TIMEOUT_S", 0.05)
    return made


def test_a_bound_function_is_used_and_stays_bound(sysfs: Sysfs) -> None:
    sysfs.bind("vfio-pci")
    binding = VfioBinding(BDF)
    assert (binding.group, binding.group_node) == (12, sysfs.dev / "12")
    binding.restore()
    assert not (sysfs.device / "driver_override").exists()


def test_no_such_function(sysfs: Sysfs) -> None:
    with pytest.raises(DeviceNotFoundError):
        VfioBinding("0000:00:05.0")


def test_no_iommu(sysfs: Sysfs) -> None:
    (sysfs.device / "iommu_group").unlink()
    with pytest.raises(BindError, match="no IOMMU group"):
        VfioBinding(BDF)


def test_another_driver_keeps_its_function(sysfs: Sysfs) -> None:
    sysfs.bind("other")
    with pytest.raises(BindError, match="bound to the driver other"):
        VfioBinding(BDF)


def test_vfio_pci_is_not_loaded(sysfs: Sysfs) -> None:
    (sysfs.bus / "drivers" / "vfio-pci").rmdir()
    with pytest.raises(BindError, match="modprobe vfio-pci"):
        VfioBinding(BDF)


def test_a_function_that_is_not_taken_gets_its_override_back(sysfs: Sysfs) -> None:
    with pytest.raises(BindError, match="did not take"):
        VfioBinding(BDF)
    assert (sysfs.device / "driver_override").read_text() == "\n"


def test_a_group_without_node(sysfs: Sysfs) -> None:
    sysfs.bind("vfio-pci")
    (sysfs.dev / "12").unlink()
    with pytest.raises(BindError, match="did not appear"):
        VfioBinding(BDF)


def test_a_kernel_without_vfio(sysfs: Sysfs) -> None:
    sysfs.bind("vfio-pci")
    with pytest.raises(BindError, match="vfio/vfio: No such file"):
        KernelVfioFunction(BDF)
