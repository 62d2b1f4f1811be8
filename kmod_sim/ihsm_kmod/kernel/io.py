# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory-mapped registers (linux/io.h): a driver's only way to its device, besides memory that both reach."""

from __future__ import annotations

from typing import Final

from ihsm.bus.function import PciFunction
from ihsm.errors import AccessError, BusError
from ihsm_kmod.kernel.report import ReportKind, oops

LONG: Final = 4
QUAD: Final = 8


class IoMem:
    """A BAR that `pci_iomap` has mapped (Linux: `void __iomem *`). Only `readl` and its like look inside."""

    def __init__(self, function: PciFunction, bar: int, where: str) -> None:
        """Registers of `function`; `where` is the driver's line that mapped them."""
        self.function = function
        self.bar = bar
        self.where = where
        self.mapped = True


def readl(iomem: IoMem, offset: int) -> int:
    """Read 32 bits at a byte offset. A device that is gone reads as all ones."""
    return _read(iomem, offset, LONG)


def readq(iomem: IoMem, offset: int) -> int:
    """Read 64 bits in one access. A device that is gone reads as all ones."""
    return _read(iomem, offset, QUAD)


def writel(value: int, iomem: IoMem, offset: int) -> None:
    """Write 32 bits at a byte offset. The write is posted: only a read of the same device waits until it is there."""
    _write(value, iomem, offset, LONG)


def writeq(value: int, iomem: IoMem, offset: int) -> None:
    """Write 64 bits in one access, posted as `writel` does."""
    _write(value, iomem, offset, QUAD)


def _read(iomem: IoMem, offset: int, width: int) -> int:
    _check_mapped(iomem, offset)
    try:
        return iomem.function.read_bar(iomem.bar, offset, width)
    except AccessError as error:
        oops(ReportKind.CRASH, f"page fault: {error}")
    except BusError:
        # Nobody answers, and the root complex makes an answer up (PCI Express Base, completion timeout).
        return (1 << 8 * width) - 1


def _write(value: int, iomem: IoMem, offset: int, width: int) -> None:
    _check_mapped(iomem, offset)
    try:
        iomem.function.write_bar(iomem.bar, offset, width, value, posted=True)
    except AccessError as error:
        oops(ReportKind.CRASH, f"page fault: {error}")
    except BusError:
        return  # a posted write has no answer, so nobody learns that it was lost


def _check_mapped(iomem: IoMem, offset: int) -> None:
    if not iomem.mapped:
        oops(ReportKind.CRASH, f"page fault: BAR{iomem.bar} at {offset:#x} after pci_iounmap, mapped at {iomem.where}")
