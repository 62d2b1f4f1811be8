# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver has of its device."""

from __future__ import annotations

import errno

import pytest

from ihsm_abi.pci import CLASS_CODE, DEVICE_ID, VENDOR_ID
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.interrupt import IRQ_HANDLED, free_irq, request_irq
from ihsm_kmod.kernel.io import readl, readq, writel, writeq
from ihsm_kmod.kernel.pci import (
    PCI_CFG_SPACE_SIZE,
    PCI_COMMAND,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_EXT_CAP_ID_SRIOV,
    PciDev,
    pci_alloc_irq_vectors,
    pci_disable_device,
    pci_enable_device,
    pci_find_ext_capability,
    pci_free_irq_vectors,
    pci_get_drvdata,
    pci_iomap,
    pci_iounmap,
    pci_irq_vector,
    pci_name,
    pci_num_vf,
    pci_read_config_dword,
    pci_read_config_word,
    pci_release_regions,
    pci_request_regions,
    pci_resource_len,
    pci_set_drvdata,
    pci_set_master,
    pci_sriov_configure_simple,
    pci_write_config_word,
)
from support.fake_function import SRIOV_CONTROL, SRIOV_NUM_VFS, SRIOV_OFFSET, FakeFunction
from support.pci_drivers import BDF, Bench, running
from support.waiting import until


def plugged(function: FakeFunction) -> PciDev:
    """The device that a function is, without a driver."""
    with running() as kernel:
        return kernel.pci.add(function)


def find(function: FakeFunction, capability: int = PCI_EXT_CAP_ID_SRIOV) -> int:
    with running() as kernel:
        return kernel.run(pci_find_ext_capability, kernel.pci.add(function), capability)


def test_identity_and_data_of_the_driver(bench: Bench) -> None:
    assert (bench.pdev.vendor, bench.pdev.device, bench.pdev.class_code) == (VENDOR_ID, DEVICE_ID, CLASS_CODE)
    assert pci_name(bench.pdev) == BDF
    assert pci_get_drvdata(bench.pdev) is None
    pci_set_drvdata(bench.pdev, self := object())
    assert pci_get_drvdata(bench.pdev) is self
    bench.kernel.pci.unbind(BDF)
    assert pci_get_drvdata(bench.pdev) is None


def test_sizes_of_bars() -> None:
    with FakeFunction(bars={0: 0x2000, 2: 0x10}) as function:
        pdev = plugged(function)
    assert [pci_resource_len(pdev, bar) for bar in range(6)] == [0x2000, 0, 0x10, 0, 0, 0]


def test_the_command_register_follows_the_driver(bench: Bench) -> None:
    function = bench.function
    function.put_config(PCI_COMMAND, 2, 0x0400)
    bench.run(pci_enable_device, bench.pdev)
    bench.run(pci_enable_device, bench.pdev)
    assert function.get_config(PCI_COMMAND, 2) == 0x0400 | PCI_COMMAND_MEMORY
    bench.run(pci_set_master, bench.pdev)
    assert function.get_config(PCI_COMMAND, 2) == 0x0400 | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
    bench.run(pci_disable_device, bench.pdev)
    assert function.get_config(PCI_COMMAND, 2) & PCI_COMMAND_MASTER
    bench.run(pci_disable_device, bench.pdev)
    assert not function.get_config(PCI_COMMAND, 2) & PCI_COMMAND_MASTER


def test_regions_have_one_owner(bench: Bench) -> None:
    bench.run(pci_request_regions, bench.pdev, "toy")
    with pytest.raises(Errno, match="taken by toy") as error:
        bench.run(pci_request_regions, bench.pdev, "another")
    assert error.value.errno == errno.EBUSY
    bench.run(pci_release_regions, bench.pdev)


def test_registers_are_read_and_written_in_one_access(bench: Bench) -> None:
    accesses: list[tuple[object, ...]] = []

    def on_read(bar: int, offset: int, width: int, value: int) -> int:
        accesses.append(("read", bar, offset, width))
        return value

    bench.function.on_read = on_read
    bench.function.on_write = lambda bar, offset, width, value: accesses.append(("write", bar, offset, width, value))
    registers = bench.run(pci_iomap, bench.pdev, 2)
    bench.run(writel, 0x1234_5678, registers, 0x10)
    bench.run(writeq, 0x1122_3344_5566_7788, registers, 0x18)
    assert bench.run(readl, registers, 0x10) == 0x1234_5678
    assert bench.run(readq, registers, 0x18) == 0x1122_3344_5566_7788
    assert accesses == [
        ("write", 2, 0x10, 4, 0x1234_5678),
        ("write", 2, 0x18, 8, 0x1122_3344_5566_7788),
        ("read", 2, 0x10, 4),
        ("read", 2, 0x18, 8),
    ]
    bench.run(pci_iounmap, bench.pdev, registers)


def test_a_device_that_is_gone_reads_as_ones_and_loses_what_is_written(bench: Bench) -> None:
    registers = bench.run(pci_iomap, bench.pdev, 0)
    bench.function.close()
    bench.run(writel, 1, registers, 0x14)
    bench.run(pci_write_config_word, bench.pdev, PCI_COMMAND, 1)
    assert bench.run(readl, registers, 0x1C) == 0xFFFF_FFFF
    assert bench.run(readq, registers, 0) == 0xFFFF_FFFF_FFFF_FFFF
    assert bench.run(pci_read_config_word, bench.pdev, 0) == 0xFFFF
    assert bench.run(pci_read_config_dword, bench.pdev, 0) == 0xFFFF_FFFF
    bench.run(pci_iounmap, bench.pdev, registers)


def test_a_bar_that_is_not_there_cannot_be_mapped(bench: Bench) -> None:
    with pytest.raises(Errno) as error:
        bench.run(pci_iomap, bench.pdev, 1)
    assert error.value.errno == errno.ENOMEM


def test_sriov_is_found_behind_another_capability() -> None:
    with FakeFunction(total_vfs=4) as function:
        assert find(function) == SRIOV_OFFSET
        assert find(function, 0x0003) == 0


@pytest.mark.parametrize("header", [0, 0xFFFF_FFFF])
def test_a_blank_header_ends_the_list(header: int) -> None:
    with FakeFunction(total_vfs=4) as function:
        function.put_config(PCI_CFG_SPACE_SIZE, 4, header)
        assert find(function) == 0


@pytest.mark.parametrize("following", [0x100, 0x104, 0x0FC, 0x040, 0xFFC])
def test_a_list_that_goes_in_a_circle_or_astray_ends(following: int) -> None:
    with FakeFunction(total_vfs=4) as function:
        function.put_config(PCI_CFG_SPACE_SIZE, 4, 0x000B | 1 << 16 | following << 20)
        function.put_config(0x104, 4, 0x000B | 1 << 16 | 0x100 << 20)
        assert find(function) == 0


def test_without_extended_config_space_there_is_no_such_capability() -> None:
    with FakeFunction(total_vfs=4) as function:
        del function.config[PCI_CFG_SPACE_SIZE:]
        assert find(function) == 0


@pytest.mark.parametrize(
    ("available", "minimum", "maximum", "granted"), [(32, 3, 32, 32), (8, 3, 32, 8), (3, 3, 32, 3), (32, 1, 4, 4)]
)
def test_vectors_are_granted_up_to_what_there_is(available: int, minimum: int, maximum: int, granted: int) -> None:
    with FakeFunction(vectors=available) as function, running() as kernel:
        pdev = kernel.pci.add(function)
        assert kernel.run(pci_alloc_irq_vectors, pdev, minimum, maximum) == granted
        numbers = [kernel.run(pci_irq_vector, pdev, vector) for vector in range(granted)]
        assert len(set(numbers)) == granted
        with pytest.raises(Errno) as error:
            kernel.run(pci_irq_vector, pdev, granted)
        assert error.value.errno == errno.EINVAL
        assert function.raise_interrupt(granted - 1)
        assert granted == available or not function.raise_interrupt(granted)
        with pytest.raises(Errno) as error:
            kernel.run(pci_alloc_irq_vectors, pdev, 1, 1)
        assert error.value.errno == errno.EINVAL
        kernel.run(pci_free_irq_vectors, pdev)
        assert not function.raise_interrupt(0)


@pytest.mark.parametrize(("available", "code"), [(2, errno.ENOSPC), (0, errno.EINVAL)])
def test_too_few_vectors_are_an_error_and_none_is_left(available: int, code: int) -> None:
    with FakeFunction(vectors=available) as function, running() as kernel:
        pdev = kernel.pci.add(function)
        with pytest.raises(Errno) as error:
            kernel.run(pci_alloc_irq_vectors, pdev, 3, 32)
        assert error.value.errno == code
        assert not function.raise_interrupt(0)
        kernel.run(pci_free_irq_vectors, pdev)


def test_a_bus_that_refuses_interrupts_is_an_error() -> None:
    with FakeFunction() as function, running() as kernel:
        pdev = kernel.pci.add(function)
        function.close()
        with pytest.raises(Errno) as error:
            kernel.run(pci_alloc_irq_vectors, pdev, 1, 1)
        assert error.value.errno == errno.EIO
        assert pdev.events == []


def test_a_reset_keeps_interrupts_and_the_command_register(bench: Bench) -> None:
    calls: list[int] = []
    bench.run(pci_enable_device, bench.pdev)
    bench.run(pci_set_master, bench.pdev)
    bench.run(pci_alloc_irq_vectors, bench.pdev, 1, 1)
    irq = bench.run(pci_irq_vector, bench.pdev, 0)
    bench.run(request_irq, irq, lambda irq, dev_id: calls.append(irq) or IRQ_HANDLED, "toy", bench)
    bench.function.on_reset = bench.function.disable_interrupts
    bench.kernel.pci.reset(BDF)
    assert bench.function.resets == 1
    assert bench.function.get_config(PCI_COMMAND, 2) == PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER
    assert bench.function.raise_interrupt(0)
    until(lambda: calls == [irq], "the handler")
    bench.run(free_irq, irq, bench)
    bench.run(pci_free_irq_vectors, bench.pdev)
    bench.run(pci_disable_device, bench.pdev)


def test_virtual_functions_are_enabled_and_disabled() -> None:
    with FakeFunction(total_vfs=4) as function, running() as kernel:
        pdev = kernel.pci.add(function)
        assert kernel.run(pci_sriov_configure_simple, pdev, 3) == 3
        assert function.get_config(SRIOV_NUM_VFS, 2) == 3
        assert function.get_config(SRIOV_CONTROL, 2) == 0b1001
        assert pci_num_vf(pdev) == 3
        with pytest.raises(Errno) as error:
            kernel.run(pci_sriov_configure_simple, pdev, 2)
        assert error.value.errno == errno.EBUSY
        assert kernel.run(pci_sriov_configure_simple, pdev, 0) == 0
        assert function.get_config(SRIOV_NUM_VFS, 2) == 0
        assert function.get_config(SRIOV_CONTROL, 2) == 0
        assert pci_num_vf(pdev) == 0


@pytest.mark.parametrize(
    ("total", "count", "code"), [(4, 5, errno.EINVAL), (4, -1, errno.EINVAL), (None, 1, errno.ENODEV)]
)
def test_virtual_functions_that_there_are_not(total: int | None, count: int, code: int) -> None:
    with FakeFunction(total_vfs=total) as function, running() as kernel:
        with pytest.raises(Errno) as error:
            kernel.run(pci_sriov_configure_simple, kernel.pci.add(function), count)
        assert error.value.errno == code
