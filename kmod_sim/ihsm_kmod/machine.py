# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A machine: a kernel with the HSM's driver loaded, the functions on its PCI bus, and programs that use them.

What a test or a program of the model uses is here, all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TextIO

from ihsm.bus.function import PciFunction
from ihsm.closing import Closing
from ihsm_kmod.hsm.module import HsmModule
from ihsm_kmod.kernel.clock import Clock, StillClock, SystemClock
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci_bus import PciBus
from ihsm_kmod.kernel.process import Process
from ihsm_kmod.kernel.report import Report, ReportKind

__all__ = [
    "Clock", "Errno", "Kernel", "Machine", "Oops", "PciBus", "Process", "Report", "ReportKind", "StillClock",
    "SystemClock",
]  # fmt: skip

FIRST_SLOT: Final = 4
"""Slots below it are a PC's own."""
SLOTS: Final = 32
"""Of a bus."""


def bdf_of_slot(slot: int) -> str:
    """Where a device in that slot of the one bus is."""
    return f"0000:00:{slot:02x}.0"


class Machine(Closing):
    """A running machine. Its end unloads the driver and ends the kernel; the functions stay the caller's to close."""

    kernel: Kernel
    """Has the log, the reports of the checks, and the PCI bus."""
    bdfs: list[str]
    """Where on the bus each function is."""

    def __init__(
        self,
        *functions: PciFunction,
        clock: Clock | None = None,
        dma: Literal["shared", "strict"] = "shared",
        panic_on_warn: bool = False,
        quirks: Mapping[str, bool] | None = None,
        test_hooks: bool = False,
        console: TextIO | None = None,
        bdfs: Sequence[str] | None = None,
        module_class: type[HsmModule] = HsmModule,
        **module_parameters: int | bool,
    ) -> None:
        """Boot, load the driver, and plug the functions in.

        A function that the driver refuses is no error here: `kernel.pci.probe_error` and the log have it.

        Args:
            functions: devices.
            clock: the kernel's time; None for the system's.
            dma: whether a late access of the device is to fail ("strict").
            panic_on_warn: whether each report of the kernel's checks is an oops.
            quirks: behaviours of the driver that are to differ from their default, by name.
            test_hooks: whether the driver is built with its test hooks.
            console: where the kernel's log goes at once; None for nowhere.
            bdfs: where the functions are to be on the bus; None for 0000:00:04.0, 05.0, and so on.
            module_class: the driver, or one derived from it.
            module_parameters: of the driver.

        Raises:
            Errno: EINVAL, a parameter is none; or the driver does not load.
        """
        self.kernel = Kernel(clock, dma=dma, panic_on_warn=panic_on_warn, console=console)
        try:
            build = module_class.built_with(quirks=quirks, test_hooks=test_hooks)
            self.module = self.kernel.load(build, **module_parameters)
            self.bdfs = list(bdfs or (bdf_of_slot(FIRST_SLOT + number) for number in range(len(functions))))
            for function, bdf in zip(functions, self.bdfs, strict=True):
                self.kernel.pci.add(function, bdf)
        except BaseException:
            self.close()
            raise

    @property
    def clock(self) -> Clock:
        """The kernel's time."""
        return self.kernel.clock

    def process(self, comm: str = "app") -> Process:
        """A new program."""
        return Process(self.kernel, comm=comm)

    def sysfs(self, path: str) -> str:
        """Text of a file below `azihsm` of the first function, such as `global/total_lvl1_aborts`.

        Raises:
            Errno: ENOENT, there is none.
        """
        return self.kernel.vfs.read_text(f"/sys/bus/pci/devices/{self.bdfs[0]}/azihsm/{path}")

    def close(self) -> None:
        """Unload the driver and end the kernel; harmless the second time, and after an oops."""
        self.kernel.close()
