# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Binding to vfio-pci over a folder that stands for sysfs; the real one is used in guests."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ihsm.bus import vfio_bind, vfio_kernel
from ihsm.bus.vfio_bind import VfioBinding
from ihsm.bus.vfio_kernel import KernelVfioFunction
from ihsm.errors import BindError, BusError, DeviceNotFoundError, InterruptsUnavailableError, RequestRefusedError

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


class Kernel:
    """Answers VFIO's requests; those in `refused` with an error."""

    def __init__(self, refused: dict[int, int]) -> None:
        self.refused = refused

    def ioctl(self, fd: int, number: int, argument: bytearray | int = 0) -> int:
        if number in self.refused:
            raise OSError(self.refused[number], os.strerror(self.refused[number]))
        if number == vfio_kernel.CHECK_EXTENSION:
            return int(argument == vfio_kernel.TYPE1V2_IOMMU)
        if number == vfio_kernel.GROUP_GET_DEVICE_FD:
            return os.open("/dev/null", os.O_RDWR)
        if number == vfio_kernel.GROUP_GET_STATUS and isinstance(argument, bytearray):
            argument[4] = vfio_kernel.GROUP_VIABLE
        return 0


@pytest.fixture
def refusing(sysfs: Sysfs, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Have the kernel refuse a request with an errno."""
    sysfs.bind("vfio-pci")
    (sysfs.dev / "vfio").touch()
    kernel = Kernel({})
    monkeypatch.setattr(vfio_kernel.fcntl, "ioctl", kernel.ioctl)
    return kernel.refused.__setitem__


@pytest.mark.parametrize(
    "name",
    [
        "GET_API_VERSION",
        "CHECK_EXTENSION",
        "SET_IOMMU",
        "GROUP_GET_STATUS",
        "GROUP_SET_CONTAINER",
        "GROUP_GET_DEVICE_FD",
        "DEVICE_GET_INFO",
        "DEVICE_GET_IRQ_INFO",
        "IOMMU_GET_INFO",
    ],
)
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTTY, errno.ENOMEM])
def test_whatever_the_kernel_refuses_is_a_bus_error(
    refusing: Callable[[int, int], None], name: str, number: int
) -> None:
    refusing(getattr(vfio_kernel, name), number)
    with counted_descriptors(), pytest.raises(BusError, match=f"pci:{BDF}: VFIO {name}: ") as caught:
        KernelVfioFunction(BDF)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == number


def test_a_machine_without_interrupt_remapping(refusing: Callable[[int, int], None]) -> None:
    refusing(vfio_kernel.SET_IOMMU, errno.EPERM)
    with pytest.raises(BindError, match=r"no interrupt remapping.*intremap=on.*allow_unsafe_interrupts=1"):
        KernelVfioFunction(BDF)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSPC])
def test_a_kernel_without_msi(refusing: Callable[[int, int], None], number: int) -> None:
    with KernelVfioFunction(BDF) as function:
        function._vectors = 3
        refusing(vfio_kernel.DEVICE_SET_IRQS, number)
        with pytest.raises(InterruptsUnavailableError, match="poll instead: --poll"):
            function.enable_interrupts([0, 1, 2])


def test_a_reset_that_the_kernel_refuses(refusing: Callable[[int, int], None]) -> None:
    with KernelVfioFunction(BDF) as function:
        with pytest.raises(BusError, match="no way to reset"):
            function.reset()
        function._resettable = True
        refusing(vfio_kernel.DEVICE_RESET, errno.EIO)
        with pytest.raises(RequestRefusedError, match="VFIO DEVICE_RESET"):
            function.reset()


@contextlib.contextmanager
def counted_descriptors() -> Iterator[None]:
    """As many descriptors afterwards as before."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_kernel_without_vfio(sysfs: Sysfs) -> None:
    sysfs.bind("vfio-pci")
    with pytest.raises(BindError, match="vfio/vfio: No such file"):
        KernelVfioFunction(BDF)
