# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function of the kernel's VFIO in a child of fork(): ordinary files stand in for VFIO's nodes.

What the kernel itself makes of it is tried in a guest (`tests/guest/vfio_driver.py`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from ihsm.bus import vfio_kernel
from ihsm.bus.vfio_abi import MmapArea, Region, RegionFlags, RegionInfo
from ihsm.bus.vfio_kernel import KernelVfioFunction
from ihsm_abi.pci import BAR_BYTES
from support.children import FORKS, in_child, refusal

pytestmark = FORKS

RIGHTS: Final = RegionFlags.READ | RegionFlags.WRITE
STEP: Final = 1 << 16
"""Distance of the regions in the device's file."""


class FileFunction(KernelVfioFunction):
    """Its regions lie in a memfd, and another one is the container; `restored` tells when it was given back."""

    def _open(self) -> None:
        self.restored: list[int] = []
        self._closing.callback(lambda: self.restored.append(os.getpid()))
        self._container = os.memfd_create("container")
        self._keep(self._container)
        self._device = os.memfd_create("device")
        self._keep(self._device)
        os.ftruncate(self._device, STEP * (Region.CONFIG + 1))
        self._regions = {
            region: RegionInfo(region, RIGHTS, BAR_BYTES, STEP * region, self._areas(region))
            for region in (*range(6), Region.CONFIG)
        }
        self._iova_ranges = [(0, (1 << 39) - 1)]
        self._resettable = True
        self._vectors = 3

    @staticmethod
    def _areas(region: int) -> tuple[MmapArea, ...]:
        return (MmapArea(0, BAR_BYTES),) if region == Region.BAR0 + 2 else ()

    def nodes(self) -> list[int]:
        return list(self._nodes)


@pytest.fixture
def function() -> Iterator[FileFunction]:
    with FileFunction("0000:00:04.0") as made:
        yield made


OPERATIONS: Final[dict[str, Callable[[KernelVfioFunction], Any]]] = {
    "read-config": lambda f: f.read_config(0, 4),
    "write-config": lambda f: f.write_config(4, b"\0\0"),
    "read-bar": lambda f: f.read_bar(0, 0, 4),
    "write-bar": lambda f: f.write_bar(0, 0, 4, 1),
    "read-mapped-bar": lambda f: f.read_bar(2, 0, 4),
    "write-mapped-bar": lambda f: f.write_bar(2, 0, 4, 1),
    "map-bar": lambda f: f.map_bar(2),
    "arena": lambda f: f.allocate_arena(4096),
    "interrupts": lambda f: f.enable_interrupts([None]),
    "no-interrupts": lambda f: f.disable_interrupts(),
    "reset": lambda f: f.reset(),
}


def test_every_operation_is_refused(function: FileFunction) -> None:
    mapping = function.map_bar(2)
    assert mapping is not None
    function.write_bar(2, 0, 4, 0x1234)

    def attempts() -> tuple[list[str], bytes]:
        messages = [refusal(lambda work=work: work(function)) for work in OPERATIONS.values()]
        found = mapping[:4]
        mapping[:4] = b"\xff" * 4
        return messages, found

    messages, found = in_child(attempts)
    assert all(message.startswith("pci:0000:00:04.0: ") for message in messages)
    assert found == bytes(4)
    assert function.read_bar(2, 0, 4) == 0x1234


def test_a_child_closes_its_nodes_and_gives_nothing_back(function: FileFunction) -> None:
    nodes = function.nodes()
    assert len(nodes) == 2

    def close() -> tuple[int, list[int]]:
        still = 0
        for node in nodes:
            with contextlib.suppress(OSError):
                os.fstat(node)
                still += 1
        function.close()
        function.close()
        return still, function.restored

    assert in_child(close) == (0, [])
    for node in nodes:
        os.fstat(node)
    assert len(function.read_config(0, 4)) == 4
    assert not function.restored
    function.close()
    assert function.restored == [os.getpid()]


def test_a_request_to_vfio_is_named(function: FileFunction) -> None:
    message = in_child(lambda: refusal(lambda: function._ioctl(function._container, vfio_kernel.IOMMU_MAP_DMA)))
    assert message.startswith("pci:0000:00:04.0: VFIO IOMMU_MAP_DMA: refused in a child")
