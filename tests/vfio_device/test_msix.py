# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""MSI-X over both hosts: masks, pending bits, delivery on unmask, what resets do (spec 01 §14.9, PCIe 7.7.2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.pci import ADMIN_VECTOR, MSIX_ENTRY_BYTES, MSIX_PBA_OFFSET, MSIX_VECTORS, Bar
from support.devices import DeviceUnderTest
from support.interrupts import ANY, Interrupts
from support.polled import PolledDriver, admin_sqe
from support.waiting import until

MASKED, UNMASKED = 1, 0


@pytest.fixture
def interrupts(driver: PolledDriver) -> Iterator[Interrupts]:
    interrupts = Interrupts(driver)
    driver.enable()
    yield interrupts
    interrupts.close()


def admin_command(driver: PolledDriver) -> None:
    """A command whose completion is looked at before its interrupt."""
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS


def test_vectors_of_an_untouched_table_are_delivered(driver: PolledDriver, interrupts: Interrupts) -> None:
    admin_command(driver)
    assert interrupts.arrives(ADMIN_VECTOR)
    driver.create_pair(1, vector=7)
    assert interrupts.arrives(ADMIN_VECTOR)
    driver.run_hsm(b"abc")
    assert interrupts.arrives(7)
    assert interrupts.quiet(set(ANY) - {ADMIN_VECTOR, 7})


def test_completion_is_there_when_its_interrupt_comes(driver: PolledDriver, interrupts: Interrupts) -> None:
    for _ in range(200):
        driver.admin.submit(admin_sqe(AdminOpcode.GET_RES_CNT, driver.next_cid(), dw10=1))
        assert interrupts.arrives(ADMIN_VECTOR)
        assert driver.admin.poll() is not None


def test_reset_values_and_read_back(driver: PolledDriver, interrupts: Interrupts) -> None:
    function = driver.function
    for vector in range(MSIX_VECTORS):
        words = [function.read_bar(Bar.MSIX, vector * MSIX_ENTRY_BYTES + at, 4) for at in (0, 4, 8, 12)]
        assert words == [0, 0, 0, MASKED]
    function.write_bar(Bar.MSIX, 5 * MSIX_ENTRY_BYTES, 8, 0x11223344_FEE00000)
    function.write_bar(Bar.MSIX, 5 * MSIX_ENTRY_BYTES + 8, 8, 0xFFFF_FFFE_0000_4041)
    assert function.read_bar(Bar.MSIX, 5 * MSIX_ENTRY_BYTES, 8) == 0x11223344_FEE00000
    assert function.read_bar(Bar.MSIX, 5 * MSIX_ENTRY_BYTES + 8, 8) == 0x0000_0000_0000_4041
    for offset, width in ((MSIX_PBA_OFFSET, 8), (MSIX_PBA_OFFSET + 8, 8), (0x200, 4), (0xFFC, 4)):
        function.write_bar(Bar.MSIX, offset, width, (1 << 8 * width) - 1)
        assert function.read_bar(Bar.MSIX, offset, width) == 0


def test_masked_entry_is_pending_until_unmasked(driver: PolledDriver, interrupts: Interrupts) -> None:
    interrupts.mask(ADMIN_VECTOR, MASKED)
    admin_command(driver)
    interrupts.becomes_pending(1 << ADMIN_VECTOR)
    assert interrupts.quiet()
    interrupts.mask(ADMIN_VECTOR, UNMASKED)
    assert interrupts.arrives(ADMIN_VECTOR)
    interrupts.becomes_pending(0)
    assert interrupts.quiet()
    interrupts.mask(ADMIN_VECTOR, MASKED)
    for _ in range(3):
        admin_command(driver)
    interrupts.becomes_pending(1 << ADMIN_VECTOR)
    interrupts.mask(ADMIN_VECTOR, UNMASKED)
    assert interrupts.arrives(ADMIN_VECTOR)


def test_masks_are_per_vector(driver: PolledDriver, interrupts: Interrupts) -> None:
    driver.create_pair(1, vector=1)
    driver.create_pair(2, vector=2)
    assert interrupts.arrives(ADMIN_VECTOR)
    interrupts.mask(1, MASKED)
    driver.run_hsm(b"one", queue_id=1)
    driver.run_hsm(b"two", queue_id=2)
    assert interrupts.arrives(2)
    interrupts.becomes_pending(1 << 1)
    interrupts.mask(1, UNMASKED)
    assert interrupts.arrives(1)


def test_function_mask(driver: PolledDriver, device: DeviceUnderTest, interrupts: Interrupts) -> None:
    driver.create_pair(1, vector=3)
    assert interrupts.arrives(ADMIN_VECTOR)
    device.set_function_mask(True)
    interrupts.forget(ADMIN_VECTOR)
    driver.run_hsm(b"abc")
    admin_command(driver)
    interrupts.becomes_pending(1 << 3 | 1 << ADMIN_VECTOR)
    assert interrupts.quiet()
    interrupts.mask(3, MASKED)
    device.set_function_mask(False)
    assert interrupts.arrives(ADMIN_VECTOR)
    interrupts.becomes_pending(1 << 3)
    interrupts.mask(3, UNMASKED)
    assert interrupts.arrives(3)


def test_reset_forgets_masks_and_pending_bits(driver: PolledDriver, interrupts: Interrupts) -> None:
    interrupts.mask(ADMIN_VECTOR, MASKED)
    admin_command(driver)
    interrupts.becomes_pending(1 << ADMIN_VECTOR)
    driver.function.reset()
    driver.function.enable_interrupts(interrupts.events)
    assert interrupts.pending == 0
    assert interrupts.quiet()
    driver.enable()
    admin_command(driver)
    assert interrupts.arrives(ADMIN_VECTOR)


def test_disable_drops_pending_interrupts(driver: PolledDriver, interrupts: Interrupts) -> None:
    interrupts.mask(ADMIN_VECTOR, MASKED)
    admin_command(driver)
    driver.disable()
    interrupts.mask(ADMIN_VECTOR, UNMASKED)
    assert interrupts.quiet(), "an interrupt after RDY=0"


def test_deleted_queue_raises_nothing(driver: PolledDriver, interrupts: Interrupts) -> None:
    driver.create_pair(1, vector=4)
    interrupts.mask(4, MASKED)
    driver.run_hsm(b"abc")
    until(lambda: interrupts.pending & 1 << 4, "the pending bit of a masked vector")
    driver.delete_pair(1)
    interrupts.mask(4, UNMASKED)
    assert interrupts.quiet([4])


def test_queue_without_interrupts(driver: PolledDriver, interrupts: Interrupts) -> None:
    driver.create_pair(1)
    assert interrupts.arrives(ADMIN_VECTOR)
    driver.run_hsm(b"abc")
    assert interrupts.quiet(set(ANY) - {ADMIN_VECTOR})
    assert interrupts.pending == 0


def test_vector_without_listener(driver: PolledDriver, interrupts: Interrupts) -> None:
    driver.function.enable_interrupts([None, *interrupts.events[1:]])
    admin_command(driver)
    driver.function.enable_interrupts(interrupts.events)
    admin_command(driver)
    assert interrupts.arrives(ADMIN_VECTOR)
