# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""MSI-X vectors of a device (Linux: drivers/pci/msi)."""

from __future__ import annotations

import contextlib
import errno
import os

from ihsm.errors import BusError
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.interrupt import Interrupts
from ihsm_kmod.kernel.pci_dev import PciDev
from ihsm_kmod.kernel.report import might_sleep, where
from ihsm_kmod.kernel.task import current


def pci_alloc_irq_vectors(pdev: PciDev, minimum: int, maximum: int) -> int:
    """Have between `minimum` and `maximum` MSI-X vectors (Linux: with PCI_IRQ_MSIX alone); how many were granted.

    Raises:
        Errno: EINVAL, the function has no MSI-X, or the driver has vectors; ENOSPC, it has fewer than `minimum`;
            EIO, the bus refused.
    """
    might_sleep()
    available = pdev.function.vectors
    if pdev.irqs or not available or maximum < minimum:
        raise Errno(errno.EINVAL, f"{pdev.name}: {len(pdev.irqs)} of {available} vectors allocated")
    count = min(maximum, available)
    if count < minimum:
        raise Errno(errno.ENOSPC, f"{pdev.name} has {available} vectors, {minimum} needed")
    pdev.events = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
    try:
        enable_vectors(pdev)
    except Errno:
        _close_events(pdev)
        raise
    interrupts = current().kernel.part(Interrupts)
    pdev.irqs = [interrupts.add(event) for event in pdev.events]
    pdev.vectors_at = where()
    return count


def enable_vectors(pdev: PciDev) -> None:
    """Tell the function where its interrupts go, if it has any; also after a reset.

    Raises:
        Errno: EIO, the bus refused.
    """
    if not pdev.events:
        return
    try:
        pdev.function.enable_interrupts(pdev.events)
    except BusError as error:
        raise Errno(errno.EIO, str(error)) from None


def pci_free_irq_vectors(pdev: PciDev) -> None:
    """Undo `pci_alloc_irq_vectors`. Every handler must have been freed."""
    might_sleep()
    for irq in pdev.irqs:
        current().kernel.part(Interrupts).remove(irq)
    pdev.irqs = []
    pci_silence(pdev)


def pci_silence(pdev: PciDev) -> None:
    """Have the function raise no interrupt any more; harmless the second time."""
    if pdev.events:
        with contextlib.suppress(BusError):  # gone, and silent for good
            pdev.function.disable_interrupts()
        _close_events(pdev)


def _close_events(pdev: PciDev) -> None:
    events, pdev.events = pdev.events, []
    for event in events:
        os.close(event)


def pci_irq_vector(pdev: PciDev, number: int) -> int:
    """Interrupt of a vector, for `request_irq`.

    Raises:
        Errno: EINVAL, so many were not granted.
    """
    if not 0 <= number < len(pdev.irqs):
        raise Errno(errno.EINVAL, f"{pdev.name}: vector {number} of {len(pdev.irqs)}")
    return pdev.irqs[number]
