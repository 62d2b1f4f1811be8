# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Drivers that do not give back what they have of their device, or use it wrongly. Each is a probe."""

from __future__ import annotations

import errno
from collections.abc import Callable

from ihsm_kmod.kernel.dma import (
    DMA_FROM_DEVICE,
    DMA_TO_DEVICE,
    dma_alloc_coherent,
    dma_free_coherent,
    dma_map_sg,
    dma_set_mask_and_coherent,
    dma_unmap_sg,
)
from ihsm_kmod.kernel.dma_pool import dma_pool_alloc, dma_pool_create, dma_pool_destroy, dma_pool_free
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.interrupt import free_irq, request_irq
from ihsm_kmod.kernel.io import readl, writel
from ihsm_kmod.kernel.mm import PAGE_SIZE, Page, ScatterList, sg_alloc_table_from_pages
from ihsm_kmod.kernel.pci import (
    PciDev,
    PciDeviceId,
    pci_alloc_irq_vectors,
    pci_disable_device,
    pci_enable_device,
    pci_free_irq_vectors,
    pci_iomap,
    pci_iounmap,
    pci_irq_vector,
    pci_release_regions,
    pci_request_regions,
)
from ihsm_kmod.kernel.report import ReportKind

Probe = Callable[[PciDev, PciDeviceId], None]


class _Nothing:
    """Memory of no process: all zero, and writable everywhere."""

    def read(self, address: int, size: int) -> bytes:
        return bytes(size)

    def write(self, address: int, data: bytes) -> int:
        return len(data)

    def accessible_bytes(self, address: int, size: int, write: bool) -> int:
        return size


def _page_list() -> ScatterList:
    return sg_alloc_table_from_pages([Page(_Nothing(), 0)], 0, PAGE_SIZE)


def _ignore(irq: int, dev_id: object) -> int:
    raise AssertionError("no interrupt was raised")


def leak_coherent(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    dma_alloc_coherent(pdev, 100)  # BUG


def leak_pool(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_pool_create("pages", pdev, 64, 64)  # BUG


def leak_block(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    pool = dma_pool_create("pages", pdev, 64, 64)
    dma_pool_alloc(pool)  # BUG
    dma_pool_destroy(pool)


def leak_mapping(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    dma_map_sg(pdev, _page_list(), DMA_TO_DEVICE)  # BUG


def leak_of_failed_probe(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    dma_alloc_coherent(pdev, 100)  # BUG
    raise Errno(errno.EIO)


def leak_handler(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_alloc_irq_vectors(pdev, 1, 1)
    request_irq(pci_irq_vector(pdev, 0), _ignore, "toy", pdev)  # BUG
    pci_free_irq_vectors(pdev)


def leak_vectors(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_alloc_irq_vectors(pdev, 1, 1)  # BUG


def leak_regions(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_request_regions(pdev, "toy")  # BUG


def leak_iomap(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_iomap(pdev, 0)  # BUG


def leave_enabled(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_enable_device(pdev)  # BUG


def free_coherent_twice(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    memory = dma_alloc_coherent(pdev, 100)
    dma_free_coherent(pdev, memory)
    dma_free_coherent(pdev, memory)  # BUG


def free_block_twice(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    pool = dma_pool_create("pages", pdev, 64, 64)
    block = dma_pool_alloc(pool)
    dma_pool_free(pool, block)
    dma_pool_free(pool, block)  # BUG
    dma_pool_destroy(pool)


def free_block_to_another_pool(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    pool, other = dma_pool_create("pages", pdev, 64, 64), dma_pool_create("others", pdev, 64, 64)
    block = dma_pool_alloc(pool)
    dma_pool_free(other, block)  # BUG
    dma_pool_free(pool, block)
    dma_pool_destroy(pool)
    dma_pool_destroy(other)


def destroy_pool_twice(pdev: PciDev, identity: PciDeviceId) -> None:
    pool = dma_pool_create("pages", pdev, 64, 64)
    dma_pool_destroy(pool)
    dma_pool_destroy(pool)  # BUG


def unmap_twice(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    pages = _page_list()
    dma_map_sg(pdev, pages, DMA_TO_DEVICE)
    dma_unmap_sg(pdev, pages, DMA_TO_DEVICE)
    dma_unmap_sg(pdev, pages, DMA_TO_DEVICE)  # BUG


def unmap_in_another_direction(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    pages = _page_list()
    dma_map_sg(pdev, pages, DMA_TO_DEVICE)
    dma_unmap_sg(pdev, pages, DMA_FROM_DEVICE)  # BUG


def use_freed_coherent(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    memory = dma_alloc_coherent(pdev, 100)
    dma_free_coherent(pdev, memory)
    memory.view[0] = 1  # BUG


def use_freed_block(pdev: PciDev, identity: PciDeviceId) -> None:
    dma_set_mask_and_coherent(pdev, 64)
    pool = dma_pool_create("pages", pdev, 64, 64)
    block = dma_pool_alloc(pool)
    dma_pool_free(pool, block)
    block.view[0] = 1  # BUG
    dma_pool_destroy(pool)


def free_handler_twice(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_alloc_irq_vectors(pdev, 1, 1)
    irq = pci_irq_vector(pdev, 0)
    request_irq(irq, _ignore, "toy", pdev)
    free_irq(irq, pdev)
    free_irq(irq, pdev)  # BUG
    pci_free_irq_vectors(pdev)


def free_handler_of_another(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_alloc_irq_vectors(pdev, 1, 1)
    irq = pci_irq_vector(pdev, 0)
    request_irq(irq, _ignore, "toy", pdev)
    free_irq(irq, None)  # BUG
    free_irq(irq, pdev)
    pci_free_irq_vectors(pdev)


def disable_what_is_disabled(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_disable_device(pdev)  # BUG


def release_what_is_free(pdev: PciDev, identity: PciDeviceId) -> None:
    pci_release_regions(pdev)  # BUG


def unmap_bar_twice(pdev: PciDev, identity: PciDeviceId) -> None:
    registers = pci_iomap(pdev, 0)
    pci_iounmap(pdev, registers)
    pci_iounmap(pdev, registers)  # BUG


def read_unmapped_bar(pdev: PciDev, identity: PciDeviceId) -> None:
    registers = pci_iomap(pdev, 0)
    pci_iounmap(pdev, registers)
    readl(registers, 0)  # BUG


def write_behind_the_bar(pdev: PciDev, identity: PciDeviceId) -> None:
    writel(0, pci_iomap(pdev, 0), PAGE_SIZE)  # BUG


WARNED: tuple[tuple[Probe, ReportKind], ...] = (
    (leak_coherent, ReportKind.DMA_LEAK),
    (leak_pool, ReportKind.DMA_LEAK),
    (leak_block, ReportKind.DMA_LEAK),
    (leak_mapping, ReportKind.DMA_LEAK),
    (leak_of_failed_probe, ReportKind.DMA_LEAK),
    (leak_handler, ReportKind.IRQ_LEAK),
    (leak_vectors, ReportKind.RESOURCE_LEAK),
    (leak_regions, ReportKind.RESOURCE_LEAK),
    (leak_iomap, ReportKind.RESOURCE_LEAK),
    (leave_enabled, ReportKind.RESOURCE_LEAK),
    (free_coherent_twice, ReportKind.DMA_DOUBLE_FREE),
    (free_block_twice, ReportKind.DMA_DOUBLE_FREE),
    (free_block_to_another_pool, ReportKind.DMA_DOUBLE_FREE),
    (destroy_pool_twice, ReportKind.DMA_DOUBLE_FREE),
    (unmap_twice, ReportKind.DMA_DOUBLE_FREE),
    (unmap_in_another_direction, ReportKind.WARN),
    (use_freed_coherent, ReportKind.DMA_USE_AFTER_UNMAP),
    (use_freed_block, ReportKind.DMA_USE_AFTER_UNMAP),
    (free_handler_twice, ReportKind.IRQ_FREE),
    (free_handler_of_another, ReportKind.IRQ_FREE),
    (disable_what_is_disabled, ReportKind.WARN),
    (release_what_is_free, ReportKind.WARN),
    (unmap_bar_twice, ReportKind.WARN),
)
"""After these the kernel goes on."""

FATAL: tuple[Probe, ...] = (read_unmapped_bar, write_behind_the_bar)
"""These crash it."""
