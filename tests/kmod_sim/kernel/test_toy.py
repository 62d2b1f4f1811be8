# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A small driver on a real function: `ihsm serve` over its socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.pci import CLASS_CODE, MSIX_VECTORS
from ihsm_kmod.kernel.pci import PCI_EXT_CAP_ID_SRIOV, pci_find_ext_capability, pci_register_driver
from ihsm_kmod.kernel.pci import pci_unregister_driver as unregister
from support import toy_driver
from support.pci_drivers import BDF, driver, running
from support.process import ServeProcess, serve
from support.waiting import HANG_S, until


@pytest.fixture(scope="module", params=["trap", "page"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with serve("--socket", str(tmp_path_factory.mktemp("toy") / "s"), "--doorbell", request.param) as server:
        yield server


@pytest.mark.parametrize("dma", ["shared", "strict"])
def test_a_driver_on_a_real_function(server: ServeProcess, dma: Literal["shared", "strict"]) -> None:
    toy = driver(toy_driver.probe, toy_driver.remove)
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function, running(dma) as kernel:
        kernel.run(pci_register_driver, toy)
        pdev = kernel.pci.add(function)
        assert pdev.class_code == CLASS_CODE
        assert pdev.driver_data.vectors == MSIX_VECTORS
        assert kernel.run(pci_find_ext_capability, pdev, PCI_EXT_CAP_ID_SRIOV) == 0
        assert [record.text for record in kernel.log] == [f"toy {BDF}: controller of vendor 0x1414"]
        until(lambda: kernel.interrupts.count(pdev.driver_data.irq) == 1, "the count")
        kernel.pci.unbind(BDF)
        kernel.pci.bind(BDF)
        kernel.run(unregister, toy)
        kernel.pci.remove(BDF, surprise=False)
        assert server.status()["counters"]["dma_regions"] == 0


def test_a_server_that_ends_is_a_device_that_is_gone(tmp_path: Path) -> None:
    gone: list[int] = []
    toy = driver(toy_driver.probe, lambda pdev: gone.append(toy_driver.readl(pdev.driver_data.registers, 0)))
    with (
        serve("--socket", str(tmp_path / "s")) as server,
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        running() as kernel,
    ):
        kernel.run(pci_register_driver, toy)
        kernel.pci.add(function)
        server.stop()
        kernel.run(unregister, toy)
        assert gone == [0xFFFF_FFFF]
        kernel.reports.clear()
