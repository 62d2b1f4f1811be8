# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which driver has which device, from being plugged in to being pulled out."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ihsm_abi.pci import DEVICE_ID, VENDOR_ID
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.io import readl
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci import (
    PciDev,
    PciDeviceId,
    PciDriver,
    pci_iomap,
    pci_iounmap,
    pci_register_driver,
    pci_sriov_configure_simple,
    pci_unregister_driver,
)
from ihsm_kmod.kernel.printk import LogLevel
from ihsm_kmod.kernel.report import ReportKind
from support.broken_drivers import bug_in
from support.fake_function import FakeFunction
from support.pci_drivers import BDF, IDENTITY, driver, running

DEVICE = f"/sys/bus/pci/devices/{BDF}"
DRIVER = "/sys/bus/pci/drivers/toy"


class Log:
    """A driver that keeps a list of what it was asked for."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.error = 0
        self.driver = driver(
            self.probe,
            lambda pdev: self.events.append("remove"),
            shutdown=lambda pdev: self.events.append(f"shutdown {pdev.name}"),
            reset_prepare=lambda pdev: self.events.append("reset_prepare"),
            reset_done=lambda pdev: self.events.append("reset_done"),
            sriov_configure=self.configure,
        )

    def probe(self, pdev: PciDev, identity: PciDeviceId) -> None:
        assert identity == IDENTITY
        self.events.append("probe")
        if self.error:
            raise Errno(self.error)

    def configure(self, pdev: PciDev, count: int) -> int:
        self.events.append(f"sriov {count}")
        return pci_sriov_configure_simple(pdev, count)

    def take(self) -> list[str]:
        events, self.events = self.events, []
        return events


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with running() as kernel:
        yield kernel


@pytest.fixture
def function() -> Iterator[FakeFunction]:
    with FakeFunction(total_vfs=4) as function:
        yield function


@pytest.fixture
def log(kernel: Kernel) -> Iterator[Log]:
    log = Log()
    kernel.run(pci_register_driver, log.driver)
    yield log
    kernel.run(pci_unregister_driver, log.driver)


def test_a_device_that_is_there_is_given_to_the_driver_that_comes(kernel: Kernel, function: FakeFunction) -> None:
    kernel.pci.add(function)
    assert not kernel.vfs.exists(f"{DEVICE}/driver")
    log = Log()
    kernel.run(pci_register_driver, log.driver)
    assert log.take() == ["probe"]
    assert kernel.pci.device(BDF).driver is log.driver
    assert kernel.vfs.exists(f"{DEVICE}/driver")
    kernel.run(pci_unregister_driver, log.driver)
    assert log.take() == ["remove"]
    assert kernel.pci.device(BDF).driver is None
    assert not kernel.vfs.exists(f"{DEVICE}/driver")
    assert not kernel.vfs.exists(DRIVER)


def test_a_device_that_comes_is_given_to_its_driver_alone(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    kernel.pci.add(function)
    assert log.take() == ["probe"]
    for vendor, device in ((VENDOR_ID, DEVICE_ID + 1), (VENDOR_ID + 1, DEVICE_ID)):
        with FakeFunction(vendor=vendor, device=device) as other:
            kernel.pci.add(other, "0000:00:05.0")
            assert log.take() == []
            kernel.pci.remove("0000:00:05.0")
            assert log.take() == []


def test_names_and_addresses_are_taken_once(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    kernel.pci.add(function)
    with FakeFunction() as other, pytest.raises(Errno) as error:
        kernel.pci.add(other)
    assert error.value.errno == errno.EEXIST
    with pytest.raises(Errno) as error:
        kernel.run(pci_register_driver, PciDriver("toy", [], log.driver.probe, log.driver.remove))
    assert error.value.errno == errno.EBUSY


@pytest.mark.parametrize(
    ("code", "level"),
    [(errno.ENOMEM, LogLevel.ERR), (errno.ENODEV, LogLevel.DEBUG), (errno.ENXIO, LogLevel.DEBUG)],
)
def test_a_probe_that_fails(kernel: Kernel, log: Log, function: FakeFunction, code: int, level: LogLevel) -> None:
    log.error = code
    kernel.pci.add(function)
    assert kernel.pci.probe_error(BDF) == code
    assert kernel.pci.device(BDF).driver is None
    assert [record.level for record in kernel.log if "probe with driver toy" in record.text] == [level]
    with pytest.raises(Errno) as error:
        kernel.pci.bind(BDF)
    assert error.value.errno == code
    log.error = 0
    kernel.pci.bind(BDF)
    assert kernel.pci.probe_error(BDF) == 0
    assert log.take() == ["probe"] * 3


def test_unbind_and_bind(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    kernel.pci.add(function)
    kernel.pci.unbind(BDF)
    kernel.pci.unbind(BDF)
    kernel.pci.bind(BDF)
    with pytest.raises(Errno) as error:
        kernel.pci.bind(BDF)
    assert error.value.errno == errno.ENODEV
    assert log.take() == ["probe", "remove", "probe"]
    kernel.vfs.write_text(f"{DRIVER}/unbind", f"{BDF}\n")
    kernel.vfs.write_text(f"{DRIVER}/bind", f"{BDF}\n")
    assert log.take() == ["remove", "probe"]


def test_a_reset_tells_the_driver_before_and_after(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    function.on_reset = lambda: log.events.append("reset")
    kernel.pci.add(function)
    kernel.vfs.write_text(f"{DEVICE}/reset", "1\n")
    assert log.take() == ["probe", "reset_prepare", "reset", "reset_done"]
    kernel.pci.unbind(BDF)
    kernel.pci.reset(BDF)
    assert log.take() == ["remove", "reset"]


def test_a_reset_that_the_bus_refuses(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    kernel.pci.add(function)
    function.close()
    with pytest.raises(Errno) as error:
        kernel.pci.reset(BDF)
    assert error.value.errno == errno.EIO
    assert log.take() == ["probe", "reset_prepare", "reset_done"]


@pytest.mark.parametrize("surprise", [True, False])
def test_removal(kernel: Kernel, function: FakeFunction, surprise: bool) -> None:
    seen: list[int] = []

    def remove(pdev: PciDev) -> None:
        registers = pci_iomap(pdev, 0)
        seen.append(readl(registers, 0))
        pci_iounmap(pdev, registers)

    toy = driver(remove=remove)
    kernel.run(pci_register_driver, toy)
    kernel.pci.add(function)
    function.put_register(0, 42)
    kernel.pci.remove(BDF, surprise=surprise)
    assert seen == [0xFFFF_FFFF if surprise else 42]
    assert not kernel.vfs.exists(DEVICE)
    assert kernel.vfs.listdir("/sys/devices/pci0000:00") == []
    kernel.run(pci_unregister_driver, toy)
    assert len(seen) == 1


def test_removal_by_sysfs_is_in_order(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    kernel.pci.add(function)
    kernel.vfs.write_text(f"{DEVICE}/remove", "1\n")
    assert not kernel.vfs.exists(DEVICE)
    assert not function.closed
    assert log.take() == ["probe", "remove"]


def test_shutdown_tells_each_driver_last_device_first(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    with FakeFunction() as other:
        kernel.pci.add(function)
        kernel.pci.add(other, "0000:00:05.0")
        kernel.pci.shutdown()
        assert log.take() == ["probe", "probe", "shutdown 0000:00:05.0", f"shutdown {BDF}"]
        kernel.pci.remove("0000:00:05.0")


def test_an_address_without_a_device(kernel: Kernel) -> None:
    for call in (kernel.pci.bind, kernel.pci.unbind, kernel.pci.reset, kernel.pci.remove, kernel.pci.probe_error):
        with pytest.raises(Errno) as error:
            call("0000:00:1f.0")
        assert error.value.errno == errno.ENODEV


def test_sysfs_says_what_a_device_is(kernel: Kernel, function: FakeFunction) -> None:
    kernel.pci.add(function)
    texts = {name: kernel.vfs.read_text(f"{DEVICE}/{name}") for name in ("vendor", "device", "class", "sriov_totalvfs")}
    assert texts == {"vendor": "0x1414\n", "device": "0xc003\n", "class": "0x108000\n", "sriov_totalvfs": "4\n"}
    with FakeFunction() as other:
        kernel.pci.add(other, "0000:00:05.0")
        assert not kernel.vfs.exists("/sys/bus/pci/devices/0000:00:05.0/sriov_totalvfs")


def test_sriov_numvfs_asks_the_driver(kernel: Kernel, log: Log, function: FakeFunction) -> None:
    path = f"{DEVICE}/sriov_numvfs"
    kernel.pci.add(function)
    log.take()
    for text, events in (("2\n", ["sriov 2"]), ("2\n", []), ("0\n", ["sriov 0"])):
        kernel.vfs.write_text(path, text)
        assert (kernel.vfs.read_text(path), log.take()) == (text, events)
    kernel.vfs.write_text(path, "2")
    for text, code in (("3", errno.EBUSY), ("5", errno.ERANGE), ("-1", errno.ERANGE), ("two", errno.EINVAL)):
        with pytest.raises(Errno) as error:
            kernel.vfs.write_text(path, text)
        assert error.value.errno == code
    kernel.pci.unbind(BDF)
    with pytest.raises(Errno) as error:
        kernel.vfs.write_text(path, "0")
    assert error.value.errno == errno.ENOENT


def test_a_function_that_does_not_answer_is_no_device(kernel: Kernel, function: FakeFunction) -> None:
    function.close()
    with pytest.raises(Errno) as error:
        kernel.pci.add(function)
    assert error.value.errno == errno.EIO
    assert kernel.vfs.listdir("/sys/devices/pci0000:00") == []


@pytest.mark.parametrize("hook", ["remove", "shutdown", "reset_prepare", "reset_done"])
def test_an_error_of_a_driver_who_has_no_say_is_a_crash(kernel: Kernel, function: FakeFunction, hook: str) -> None:
    def refuse(pdev: PciDev) -> None:
        raise Errno(errno.EBUSY)  # BUG

    kernel.run(pci_register_driver, driver(**{hook: refuse}))
    kernel.pci.add(function)
    calls = {"remove": lambda: kernel.pci.unbind(BDF), "shutdown": kernel.pci.shutdown}
    with pytest.raises(Oops):
        calls.get(hook, lambda: kernel.pci.reset(BDF))()
    assert [(report.kind, report.where) for report in kernel.reports] == [(ReportKind.CRASH, bug_in(refuse))]
    kernel.reports.clear()
