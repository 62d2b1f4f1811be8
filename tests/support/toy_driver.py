# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The smallest driver that has an answer of an HSM: its admin queue, one command, one interrupt."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE, CNS_CONTROLLER, IDENTIFY, AdminOpcode
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Aqa, Cap, Cc, Csts, Register
from ihsm_kmod.kernel.completion import Completion, complete, wait_for_completion
from ihsm_kmod.kernel.dma import dma_alloc_coherent, dma_free_coherent, dma_set_mask_and_coherent
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.interrupt import (
    IRQ_HANDLED,
    Tasklet,
    free_irq,
    request_irq,
    tasklet_kill,
    tasklet_schedule,
)
from ihsm_kmod.kernel.io import readl, readq, writel, writeq
from ihsm_kmod.kernel.pci import (
    PciDev,
    PciDeviceId,
    pci_alloc_irq_vectors,
    pci_disable_device,
    pci_enable_device,
    pci_free_irq_vectors,
    pci_get_drvdata,
    pci_iomap,
    pci_iounmap,
    pci_irq_vector,
    pci_release_regions,
    pci_request_regions,
    pci_resource_len,
    pci_set_drvdata,
    pci_set_master,
)
from ihsm_kmod.kernel.printk import dev_info
from ihsm_kmod.kernel.sched import cond_resched

SLOTS = 4
PAGE = 4096


class Toy:
    """What the driver has of one device."""

    def __init__(self, pdev: PciDev) -> None:
        self.pdev = pdev
        self.done = Completion()
        self.tasklet = Tasklet(self.drain, None)
        self.cqe: Any = None
        pci_enable_device(pdev)
        pci_set_master(pdev)
        dma_set_mask_and_coherent(pdev, 64)
        pci_request_regions(pdev, "toy")
        if pci_resource_len(pdev, Bar.REGISTERS) != PAGE:
            raise Errno(errno.ENOMEM)
        self.registers = pci_iomap(pdev, Bar.REGISTERS)
        self.doorbells = pci_iomap(pdev, Bar.DOORBELLS)
        self.vectors = pci_alloc_irq_vectors(pdev, 3, 32)
        self.sq, self.cq, self.page = (dma_alloc_coherent(pdev, PAGE) for _ in range(3))
        self.irq = pci_irq_vector(pdev, 0)
        request_irq(self.irq, self.interrupt, "toy-admin", self)

    def interrupt(self, irq: int, dev_id: object) -> int:
        tasklet_schedule(self.tasklet)
        return IRQ_HANDLED

    def drain(self, data: object) -> None:
        cqe = self.cq.view[: ADMIN_CQE.itemsize].view(ADMIN_CQE)[0]
        if cqe["psf"] & 1:
            self.cqe = cqe.copy()
            writel(1, self.doorbells, cq_head_offset(0))
            complete(self.done)

    def set_ready(self, ready: bool) -> None:
        writel(Cc.of(en=ready), self.registers, Register.CC)
        while bool(Csts(readl(self.registers, Register.CSTS)).rdy) is not ready:
            cond_resched()

    def identify(self) -> Any:
        """The controller's own account of itself."""
        assert Cap(readq(self.registers, Register.CAP)).mqes >= SLOTS - 1
        writel(Aqa.of(asqs=SLOTS - 1, acqs=SLOTS - 1), self.registers, Register.AQA)
        writeq(self.sq.dma_handle, self.registers, Register.ASQ)
        writeq(self.cq.dma_handle, self.registers, Register.ACQ)
        self.set_ready(True)
        sqe = self.sq.view[: ADMIN_SQE.itemsize].view(ADMIN_SQE)[0]
        sqe["opc"], sqe["cid"], sqe["dw10"] = AdminOpcode.IDENTIFY, 7, CNS_CONTROLLER
        sqe["prp1"] = self.page.dma_handle
        writel(1, self.doorbells, sq_tail_offset(0))
        wait_for_completion(self.done)
        assert (self.cqe["cid"], self.cqe["psf"] >> 1) == (7, 0)
        return np.frombuffer(self.page.view[: IDENTIFY.itemsize].tobytes(), IDENTIFY)[0]

    def stop(self) -> None:
        self.set_ready(False)
        free_irq(self.irq, self)
        tasklet_kill(self.tasklet)
        for memory in (self.page, self.cq, self.sq):
            dma_free_coherent(self.pdev, memory)
        pci_free_irq_vectors(self.pdev)
        pci_iounmap(self.pdev, self.doorbells)
        pci_iounmap(self.pdev, self.registers)
        pci_release_regions(self.pdev)
        pci_disable_device(self.pdev)


def probe(pdev: PciDev, identity: PciDeviceId) -> None:
    toy = Toy(pdev)
    pci_set_drvdata(pdev, toy)
    dev_info(pdev, f"controller of vendor {toy.identify()['vid']:#06x}")


def remove(pdev: PciDev) -> None:
    pci_get_drvdata(pdev).stop()
