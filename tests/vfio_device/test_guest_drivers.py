# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Call patterns of the two known guest drivers, over both hosts: Linux (spec 01 §12, §13) and UEFI firmware."""

from __future__ import annotations

from typing import Final

import pytest

from ihsm_abi.admin import IDENTIFY, IDENTIFY_SIZES, AdminOpcode, AdminStatus, QueueCounts
from ihsm_abi.registers import Cc, Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, FIRST_HSM_QUEUE_ID
from support.devices import DeviceUnderTest
from support.polled import PolledDriver, hsm_sqe

QUEUE_REQUEST: Final = 0x00800080


def identify(driver: PolledDriver) -> bytes:
    assert driver.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=driver.page.iova).status == AdminStatus.SUCCESS
    return driver.page.view[: IDENTIFY.itemsize].tobytes()


def linux_probe(driver: PolledDriver) -> tuple[range, range]:
    """Steps 3 to 20 of spec 01 §12; ids of the HSM and AES queues."""
    assert not driver.csts.rdy
    driver.enable()
    page = identify(driver)
    sizes = {name: page[int(IDENTIFY.fields[name][1])] & 0xF for name in IDENTIFY_SIZES} if IDENTIFY.fields else {}
    assert sizes == {"cp_sqes": 6, "cp_cqes": 4, "fp_sqes": 7, "fp_cqes": 6}
    fields = dict(zip(("cp_iosqes", "cp_iocqes", "fp_iosqes", "fp_iocqes"), sizes.values(), strict=True))
    driver.write(Register.CC, Cc(driver.read(Register.CC)).replace(**fields))
    ranges = []
    for feature, first, vector in ((0x07, FIRST_HSM_QUEUE_ID, 1), (0xC1, FIRST_AES_QUEUE_ID, 16)):
        counts = QueueCounts(driver.run_admin(AdminOpcode.SET_FEATURES, dw10=feature, dw11=QUEUE_REQUEST).dw0)
        ids = range(first, first + min(counts.sqs, counts.cqs) + 1)
        for index, queue_id in enumerate(ids):
            driver.create_pair(queue_id, vector=vector + index % 15)
        ranges.append(ids)
    assert driver.run_admin(AdminOpcode.GET_FEATURES, dw10=0xC2).dw0 & 1
    return ranges[0], ranges[1]


def linux_remove(driver: PolledDriver, hsm: range, aes: range) -> None:
    for queue_id in (*aes, *hsm):
        driver.delete_pair(queue_id)
    driver.disable()


@pytest.mark.resources(4)
def test_linux_probe_and_remove_twice(driver: PolledDriver) -> None:
    for expected in (0, 0x67460000):
        assert driver.read(Register.CC) == expected
        hsm, aes = linux_probe(driver)
        assert (len(hsm), len(aes)) == (4, 8)
        assert driver.read(Register.CC) == 0x67460001
        for queue_id in hsm:
            for number in range(40):
                text = f"{queue_id}.{number}".encode()
                assert driver.run_hsm(text, queue_id=queue_id).message == text[::-1]
        linux_remove(driver, hsm, aes)


def test_linux_level_two_abort_reinitialises_without_deletes(driver: PolledDriver, device: DeviceUnderTest) -> None:
    linux_probe(driver)
    driver.run_hsm(b"before")
    driver.disable()
    linux_probe(driver)
    assert driver.run_hsm(b"between").message == b"neewteb"
    driver.nssr()
    driver.wait_ready(0)
    assert Cc(driver.read(Register.CC)).en
    driver.disable()
    linux_probe(driver)
    assert driver.run_hsm(b"after").message == b"retfa"
    assert device.module.resets[-2:] == ["disable", "nssr"]


def test_many_commands_outstanding_complete_by_cid(driver: PolledDriver) -> None:
    """sqhd never goes back though commands complete in any order (spec 01 §5.1); the ring wraps many times."""
    linux_probe(driver)
    ring = driver.rings[1]
    pages = [driver.arena.allocate_pages(4096) for _ in range(ring.entries - 1)]
    sent = received = 0
    while received < 200:
        while not ring.full and sent < 200:
            page = pages[sent % len(pages)]
            ring.put(hsm_sqe(sent, source=page.iova, source_bytes=8, destination=page.iova, destination_bytes=4096))
            sent += 1
        ring.ring()
        ring.wait()
        received += 1


def test_uefi_driver(device: DeviceUnderTest) -> None:
    """Rings of two entries, so that tails toggle between 0 and 1; polling; a serial number other than zero."""
    driver = PolledDriver(device.function, admin_entries=2, entries=2)
    driver.enable()
    page = identify(driver)
    serial = page[4:36]
    assert serial.strip(b"\0 0"), "the driver refuses an all-zero serial number"
    driver.create_pair(FIRST_HSM_QUEUE_ID)
    for number in range(7):
        assert driver.rings[1].tail == number % 2
        text = f"request {number}".encode()
        assert driver.run_hsm(text).message == text[::-1]
    driver.delete_pair(FIRST_HSM_QUEUE_ID)
    driver.disable()
    driver.close()
