# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Small PCI drivers, and a kernel to run them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

from ihsm_abi.pci import DEVICE_ID, VENDOR_ID
from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.dma import dma_set_mask_and_coherent
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci import PciDev, PciDeviceId, PciDriver, pci_register_driver
from support.fake_function import FakeFunction

T = TypeVar("T")
BDF: Final = "0000:00:04.0"
IDENTITY: Final = PciDeviceId(VENDOR_ID, DEVICE_ID)


def let_go(pdev: PciDev) -> None:
    """A remove that has nothing to give back."""


def accept(pdev: PciDev, identity: PciDeviceId) -> None:
    """A probe that takes nothing."""


def driver(
    probe: Callable[[PciDev, PciDeviceId], None] = accept,
    remove: Callable[[PciDev], None] = let_go,
    **hooks: Callable[..., Any],
) -> PciDriver:
    """A driver for the HSM's functions."""
    return PciDriver("toy", [IDENTITY], probe, remove, **hooks)


@contextmanager
def running(dma: Literal["shared", "strict"] = "shared") -> Iterator[Kernel]:
    """A kernel whose clock stands still, which nothing is to be complained of at its end."""
    kernel = Kernel(StillClock(), dma=dma)
    try:
        yield kernel
        kernel.close()
        assert not kernel.reports, "\n".join(map(str, kernel.reports))
    finally:
        kernel.close()


class Bench:
    """A kernel with one fake function, and a driver that does nothing of its own."""

    def __init__(self, kernel: Kernel, function: FakeFunction) -> None:
        """Plug it in and bind the driver."""
        self.kernel = kernel
        self.function = function
        self.driver = driver(lambda pdev, identity: dma_set_mask_and_coherent(pdev, 64))
        kernel.run(pci_register_driver, self.driver)
        self.pdev = kernel.pci.add(function, BDF)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Call kernel code."""
        return self.kernel.run(function, *args)
