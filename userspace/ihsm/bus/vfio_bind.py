# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Giving a PCI function to vfio-pci and back, through sysfs."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from pathlib import Path
from typing import Final

from ihsm.errors import BindError, DeviceNotFoundError

_log = logging.getLogger(__name__)

SYSFS_PCI: Final = Path("/sys/bus/pci")
VFIO_DEV: Final = Path("/dev/vfio")
VFIO_PCI: Final = "vfio-pci"
GUEST_VARIABLE: Final = "IHSM_GUEST"
"""Environment variable that `ihsm guest` sets in its guests: whoever started the guest started its functions, too, and
no other machine's kernel is changed by loading what they need."""
MODULES: Final = (VFIO_PCI, "vfio_iommu_type1")
NODE_TIMEOUT_S: Final = 5.0
"""How long udev may take to make the group's node."""


def _loaded() -> bool:
    return (SYSFS_PCI / "drivers" / VFIO_PCI).is_dir()


def _load() -> None:
    """Load what VFIO needs, as far as it can be loaded; who binds looks whether it is there."""
    try:
        done = subprocess.run(
            ["/sbin/modprobe", "-a", *MODULES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        _log.warning("modprobe: %s", error.strerror)
        return
    if done.returncode != 0:
        _log.warning("modprobe: %s", done.stderr.strip())
    else:
        _log.info("loaded %s", " and ".join(MODULES))


class VfioBinding:
    """A function bound to vfio-pci; `restore` leaves it as it was found."""

    def __init__(self, bdf: str) -> None:
        """Bind the function at a PCI address, unless it already is.

        Raises:
            DeviceNotFoundError: no such function.
            BindError: another driver has it, vfio-pci is not loaded, or it has no IOMMU group.
        """
        self._device = SYSFS_PCI / "devices" / bdf
        self._bdf = bdf
        self._bound_here = False
        if not self._device.is_dir():
            raise DeviceNotFoundError(f"pci:{bdf}: no such PCI function")
        group = self._device / "iommu_group"
        if not group.exists():
            raise BindError(f"pci:{bdf} is in no IOMMU group: start the machine with an IOMMU (intel-iommu, iommu=pt)")
        self.group = int(group.resolve().name)
        driver = self._driver()
        if driver is None:
            self._bind()
        elif driver != VFIO_PCI:
            raise BindError(f"pci:{bdf} is bound to the driver {driver}: unbind it first")
        self.group_node = VFIO_DEV / str(self.group)
        self._wait_for_node()

    def _driver(self) -> str | None:
        link = self._device / "driver"
        return link.resolve().name if link.exists() else None

    def _bind(self) -> None:
        if not _loaded() and GUEST_VARIABLE in os.environ:
            _load()
        if not _loaded():
            raise BindError(f"pci:{self._bdf}: the driver {VFIO_PCI} is not loaded (modprobe {VFIO_PCI})")
        # driver_override names one function; new_id would claim every function with these ids.
        self._write(self._device / "driver_override", VFIO_PCI)
        self._bound_here = True
        try:
            self._write(SYSFS_PCI / "drivers_probe", self._bdf)
            if self._driver() != VFIO_PCI:
                raise BindError(f"pci:{self._bdf}: {VFIO_PCI} did not take the function")
        except BindError:
            self.restore()
            raise
        _log.info("bound pci:%s to %s", self._bdf, VFIO_PCI)

    def _wait_for_node(self) -> None:
        deadline = time.monotonic() + NODE_TIMEOUT_S
        while not self.group_node.exists():
            if time.monotonic() > deadline:
                self.restore()
                raise BindError(f"pci:{self._bdf}: {self.group_node} did not appear")
            time.sleep(0.01)

    def _write(self, path: Path, text: str) -> None:
        try:
            path.write_text(text + "\n")
        except OSError as error:
            raise BindError(f"pci:{self._bdf}: {path}: {error.strerror}") from None

    def restore(self) -> None:
        """Unbind what was bound here; harmless the second time."""
        if not self._bound_here:
            return
        self._bound_here = False
        if self._driver() == VFIO_PCI:
            self._write(SYSFS_PCI / "drivers" / VFIO_PCI / "unbind", self._bdf)
        self._write(self._device / "driver_override", "")
