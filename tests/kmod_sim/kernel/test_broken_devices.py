# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver does wrong with its device is reported once, with the driver's line."""

from __future__ import annotations

import pytest

from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci import pci_register_driver, pci_unregister_driver
from ihsm_kmod.kernel.report import ReportKind
from support.broken_drivers import bug_in
from support.broken_drivers.devices import FATAL, WARNED, Probe
from support.fake_function import FakeFunction
from support.pci_drivers import driver


@pytest.mark.parametrize("dma", ["shared", "strict"])
@pytest.mark.parametrize(("probe", "kind"), WARNED, ids=[probe.__name__ for probe, _ in WARNED])
def test_the_line_is_named(probe: Probe, kind: ReportKind, dma: str) -> None:
    kernel = Kernel(dma="strict" if dma == "strict" else "shared")
    broken = driver(probe)
    with FakeFunction() as function:
        kernel.pci.add(function)
        kernel.run(pci_register_driver, broken)
        kernel.run(pci_unregister_driver, broken)
        assert [(report.kind, report.where) for report in kernel.reports] == [(kind, bug_in(probe))]
        kernel.close()
        assert len(kernel.reports) == 1


@pytest.mark.parametrize("probe", FATAL)
def test_a_page_fault_ends_the_kernel(probe: Probe) -> None:
    kernel = Kernel()
    with FakeFunction() as function:
        kernel.pci.add(function)
        with pytest.raises(Oops, match="page fault"):
            kernel.run(pci_register_driver, driver(probe))
        assert [(report.kind, report.where) for report in kernel.reports] == [(ReportKind.CRASH, bug_in(probe))]
        kernel.close()
