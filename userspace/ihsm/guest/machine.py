# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line for a guest that has vfio-user devices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ihsm.guest.errors import GuestError
from ihsm.guest.toolchain import VFIO_USER_DEVICE

MEMORY_ID = "ihsm-memory"


class Accelerator(StrEnum):
    """How QEMU runs the guest's code."""

    AUTO = "auto"
    TCG = "tcg"
    KVM = "kvm"


class Iommu(StrEnum):
    """The guest's IOMMU: none, one that kernel drivers bypass (VFIO works), one that maps for all of them."""

    OFF = "off"
    PASSTHROUGH = "pt"
    ON = "on"


_DISK_SLOT = 0x1D
_IOMMU_KERNEL = {
    Iommu.OFF: "intel_iommu=off",
    Iommu.PASSTHROUGH: "intel_iommu=on iommu=pt",
    Iommu.ON: "intel_iommu=on iommu=nopt",
}
# An oops ends the guest, so that a driver's error is seen where it happens; -no-reboot makes a panic end QEMU.
_KERNEL = (
    "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic softlockup_panic=1 watchdog_thresh=30 nokaslr mitigations=off "
    "no_timer_check tsc=reliable cryptomgr.notests apparmor=0 audit=0 random.trust_cpu=on"
)


def memory_arguments(size: str) -> list[str]:
    """Guest memory that a device in another process can map."""
    return ["-object", f"memory-backend-memfd,id={MEMORY_ID},size={size},share=on"]


def machine_argument(accelerator: Accelerator, iommu: Iommu) -> str:
    """Value of -machine."""
    # With KVM, interrupt remapping needs the interrupt controller in QEMU.
    split = ",kernel-irqchip=split" if accelerator is Accelerator.KVM and iommu is not Iommu.OFF else ""
    return f"q35,memory-backend={MEMORY_ID}{split}"


def iommu_arguments(iommu: Iommu) -> list[str]:
    """The IOMMU device; caching-mode makes it tell QEMU, and so the device, of every mapping."""
    return [] if iommu is Iommu.OFF else ["-device", "intel-iommu,caching-mode=on"]


def device_arguments(sockets: Sequence[Path]) -> list[str]:
    """One vfio-user device per socket."""
    words = []
    for index, socket in enumerate(sockets):
        address = {"type": "unix", "path": str(socket)}
        words += ["-device", json.dumps({"driver": VFIO_USER_DEVICE, "id": f"ihsm{index}", "socket": address})]
    return words


@dataclass(frozen=True, slots=True)
class Channel:
    """A virtio port of the guest over a connected socket that QEMU inherits."""

    name: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What the guest consists of. `memory` is a size QEMU understands, e.g. '1G'."""

    kernel: Path
    initramfs: Path
    console: Path
    accelerator: Accelerator
    iommu: Iommu = Iommu.PASSTHROUGH
    memory: str = "1G"
    cpus: int = 2
    sockets: tuple[Path, ...] = ()
    shares: tuple[Path, ...] = ()
    runs: Path | None = None
    disks: tuple[tuple[str, Path], ...] = ()
    """Serial number and file of each disk, which the guest can only read."""
    channels: tuple[Channel, ...] = ()
    terminal: bool = False
    gdb_port: int | None = None
    extra: tuple[str, ...] = ()
    kernel_arguments: str = ""

    def arguments(self) -> list[str]:
        """QEMU's arguments, without the program."""
        kernel_line = f"{_KERNEL} {_IOMMU_KERNEL[self.iommu]} {self.kernel_arguments}".strip()
        words = ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-name", "ihsm-guest"]
        words += memory_arguments(self.memory)
        words += ["-machine", machine_argument(self.accelerator, self.iommu), "-accel", self.accelerator.value]
        words += ["-cpu", "host" if self.accelerator is Accelerator.KVM else "max", "-smp", str(self.cpus)]
        words += ["-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", kernel_line]
        words += ["-chardev", f"file,id=console,path={_escaped(self.console)}", "-serial", "chardev:console"]
        words += iommu_arguments(self.iommu)
        words += [*_filesystem("ihsm.root", Path("/"), writable=False)]
        for index, share in enumerate(self.shares):
            words += _filesystem(f"ihsm.share{index}", share, writable=True)
        if self.runs:
            words += _filesystem("ihsm.runs", self.runs, writable=True)
        for function, (serial, file) in enumerate(self.disks):
            words += ["-drive", f"if=none,id={serial},format=raw,readonly=on,file={_escaped(file)}"]
            # Away from the addresses that QEMU gives to devices, so that those are the same with disks and without.
            address = f"{_DISK_SLOT:#x}.{function}"
            words += ["-device", f"virtio-blk-pci,drive={serial},serial={serial},addr={address},multifunction=on"]
        words += ["-device", "virtio-serial-pci,max_ports=8"]
        for channel in self.channels:
            name = channel.name
            words += ["-chardev", f"socket,id={name},fd={channel.descriptor}"]
            words += ["-device", f"virtserialport,chardev={name},name={name}"]
        if self.terminal:
            words += ["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"]
        if self.gdb_port is not None:
            words += ["-gdb", f"tcp:127.0.0.1:{self.gdb_port}", "-S"]
        return [*words, *device_arguments(self.sockets), *self.extra]


def _filesystem(tag: str, path: Path, *, writable: bool) -> list[str]:
    options = f"local,path={_escaped(path)},mount_tag={tag},security_model=none,multidevs=remap"
    return ["-virtfs", options if writable else f"{options},readonly=on"]


def _escaped(path: Path) -> str:
    """A path inside a QEMU option list, where commas are doubled."""
    text = str(path)
    if "\n" in text:
        raise GuestError(f"{text!r}: a path with a line break cannot be given to QEMU")
    return text.replace(",", ",,")
