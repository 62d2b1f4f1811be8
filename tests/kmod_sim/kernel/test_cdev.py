# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes: from device numbers to a file that is released when the last has let go of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

import pytest

from ihsm_kmod.kernel.cdev import (
    DYNAMIC_MAJORS,
    Cdev,
    File,
    FileOperations,
    Inode,
    alloc_chrdev_region,
    cdev_add,
    cdev_del,
    unregister_chrdev_region,
)
from ihsm_kmod.kernel.completion import Completion, complete, wait_for_completion
from ihsm_kmod.kernel.device import DeviceClass, class_create, class_destroy, device_create, device_destroy
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.module import Module
from ihsm_kmod.kernel.process import Process
from ihsm_kmod.kernel.report import Report, ReportKind
from ihsm_kmod.kernel.task import current
from support.broken_drivers import bug_in
from support.pci_drivers import Bench, running


class Driver:
    """A character device that keeps a list of what is done with it."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.begun, self.gate = Completion(), Completion()
        self.error: int = 0

    def open(self, inode: Inode, file: File) -> None:
        if self.error:
            raise Errno(self.error)
        file.private_data = f"minor {inode.i_rdev[1]}"
        self.events.append(("open", file.private_data, current().tgid))

    def ioctl(self, file: File, command: int, argument: int) -> int:
        if command == 1:
            complete(self.begun)
            wait_for_completion(self.gate)
        self.events.append(("ioctl", file.private_data, command))
        return command

    def release(self, inode: Inode, file: File) -> None:
        self.events.append(("release", file.private_data, current().tgid))
        if self.error:
            raise Errno(self.error)

    def load(self) -> None:
        self.major = alloc_chrdev_region(0, 8, "toy")
        self.cls = class_create("toys")
        self.cdev = Cdev(FileOperations(self.open, self.ioctl, self.release))
        cdev_add(self.cdev, self.major, 2, 3)
        device_create(self.cls, None, self.major, 2, "toy2")

    def unload(self) -> None:
        device_destroy(self.cls, self.major, 2)
        cdev_del(self.cdev)
        class_destroy(self.cls)
        unregister_chrdev_region(self.major)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with running() as kernel:
        yield kernel


@pytest.fixture
def driver(kernel: Kernel) -> Iterator[Driver]:
    driver = Driver()
    kernel.run(driver.load)
    yield driver
    if kernel.crashed:
        return
    kernel.run(driver.unload)
    assert kernel.vfs.open_files == 0


def assert_fails(code: int, call: Callable[[], object]) -> None:
    """A system call fails with this error number."""
    with pytest.raises(OSError, match=os.strerror(code)) as error:
        call()
    assert error.value.errno == code


def test_a_file_is_opened_used_and_released_with_its_own_state(kernel: Kernel, driver: Driver) -> None:
    process = Process(kernel, tgid=77)
    first, second = process.open("/dev/toy2"), process.open("/dev/toy2")
    assert process.ioctl(first, 5) == 5
    process.close(first)
    process.close(second)
    assert driver.events == [
        ("open", "minor 2", 77),
        ("open", "minor 2", 77),
        ("ioctl", "minor 2", 5),
        ("release", "minor 2", 77),
        ("release", "minor 2", 77),
    ]


def test_the_last_of_several_descriptors_releases_in_its_own_process(kernel: Kernel, driver: Driver) -> None:
    parent = Process(kernel, tgid=77)
    fd = parent.open("/dev/toy2")
    child = parent.fork()
    copy = parent.dup(fd)
    parent.close(fd)
    parent.close(copy)
    assert [event[0] for event in driver.events] == ["open"]
    child.close(fd)
    assert driver.events[-1] == ("release", "minor 2", child.tgid)
    assert child.tgid != 77


def test_a_release_waits_for_the_call_in_flight_and_is_its_caller_s(kernel: Kernel, driver: Driver) -> None:
    parent = Process(kernel, tgid=77)
    fd = parent.open("/dev/toy2")
    child = parent.fork()
    child.close(fd)
    calling = kernel.thread(lambda: parent.ioctl(fd, 1), "app")
    kernel.run(wait_for_completion, driver.begun)
    parent.close(fd)
    assert driver.events == [("open", "minor 2", 77)]
    assert kernel.vfs.open_files == 1
    kernel.run(complete, driver.gate)
    assert calling.join() == 1
    assert driver.events[1:] == [("ioctl", "minor 2", 1), ("release", "minor 2", 77)]


def test_an_open_that_fails_leaves_no_file(kernel: Kernel, driver: Driver) -> None:
    driver.error = errno.EBUSY
    assert_fails(errno.EBUSY, lambda: Process(kernel).open("/dev/toy2"))
    assert driver.events == []
    assert kernel.vfs.open_files == 0


def test_a_release_that_fails_is_ignored(kernel: Kernel, driver: Driver) -> None:
    process = Process(kernel)
    fd = process.open("/dev/toy2")
    driver.error = errno.EIO
    process.close(fd)
    driver.error = 0
    assert_fails(errno.EBADF, lambda: process.close(fd))
    assert kernel.vfs.open_files == 0


def test_a_device_that_is_deleted_stays_with_those_who_have_it_open(kernel: Kernel, driver: Driver) -> None:
    process = Process(kernel)
    fd = process.open("/dev/toy2")
    kernel.run(cdev_del, driver.cdev)
    assert_fails(errno.ENXIO, lambda: process.open("/dev/toy2"))
    assert process.ioctl(fd, 5) == 5
    kernel.run(device_destroy, driver.cls, driver.major, 2)
    assert_fails(errno.ENOENT, lambda: process.open("/dev/toy2"))
    process.close(fd)
    kernel.run(cdev_add, driver.cdev, driver.major, 2, 1)


def test_a_device_may_do_nothing(kernel: Kernel, driver: Driver) -> None:
    silent = Cdev(FileOperations())
    kernel.run(cdev_add, silent, driver.major, 7, 1)
    kernel.run(device_create, driver.cls, None, driver.major, 7, "silent")
    process = Process(kernel)
    fd = process.open("/dev/silent")
    assert_fails(errno.ENOTTY, lambda: process.ioctl(fd, 1))
    process.close(fd)
    kernel.run(device_destroy, driver.cls, driver.major, 7)
    kernel.run(cdev_del, silent)


def test_nodes_and_folders_of_a_device_come_and_go_together(bench: Bench) -> None:
    def make() -> DeviceClass:
        cls = class_create("toys")
        device_create(cls, bench.pdev, 240, 3, "toy3")
        return cls

    kernel = bench.kernel
    vfs = kernel.vfs
    cls = kernel.run(make)
    home = "/sys/devices/pci0000:00/0000:00:04.0/toys/toy3"
    places = (home, "/sys/class/toys/toy3", "/sys/dev/char/240:3", "/sys/bus/pci/devices/0000:00:04.0/toys/toy3")
    for place in places:
        assert vfs.read_text(f"{place}/dev") == "240:3\n"
        assert vfs.read_text(f"{place}/uevent") == "MAJOR=240\nMINOR=3\nDEVNAME=toy3\n"
        assert vfs.read_text(f"{place}/device/vendor") == "0x1414\n"
        assert vfs.listdir(f"{place}/subsystem") == ["toy3"]
    assert vfs.listdir("/dev") == ["toy3"]
    node = vfs.stat("/dev/toy3")
    assert stat.S_ISCHR(node.st_mode)
    assert node.st_rdev == (240, 3)
    assert stat.S_ISDIR(vfs.stat("/dev").st_mode)
    with pytest.raises(Errno) as error:
        kernel.run(device_create, cls, None, 240, 4, "toy3")
    assert error.value.errno == errno.EEXIST
    with pytest.raises(Errno) as error:
        kernel.run(device_create, cls, None, 240, 3, "toy4")
    assert error.value.errno == errno.EEXIST
    kernel.run(device_destroy, cls, 240, 3)
    kernel.run(device_destroy, cls, 240, 3)
    assert not any(vfs.exists(place) for place in (*places, "/dev/toy3", "/sys/devices/pci0000:00/0000:00:04.0/toys"))
    kernel.run(class_destroy, cls)
    assert not vfs.exists("/sys/class/toys")


def test_a_device_without_a_parent_is_virtual(kernel: Kernel, driver: Driver) -> None:
    assert kernel.vfs.read_text("/sys/devices/virtual/toys/toy2/dev") == f"{driver.major}:2\n"


def test_major_numbers_are_given_in_linux_order_until_none_is_left(kernel: Kernel) -> None:
    majors = [kernel.run(alloc_chrdev_region, 0, 1, "toy") for _ in DYNAMIC_MAJORS]
    assert majors[:2] == [254, 253]
    assert len(set(majors)) == len(DYNAMIC_MAJORS)
    with pytest.raises(Errno) as error:
        kernel.run(alloc_chrdev_region, 0, 1, "toy")
    assert error.value.errno == errno.EBUSY
    for major in majors:
        kernel.run(unregister_chrdev_region, major)
    assert kernel.run(alloc_chrdev_region, 0, 1, "toy") == 254
    kernel.run(unregister_chrdev_region, 254)


def leave_cdev() -> None:
    major = alloc_chrdev_region(0, 1, "toy")
    cdev_add(Cdev(FileOperations()), major, 0, 1)  # BUG
    unregister_chrdev_region(major)


def leave_region() -> None:
    alloc_chrdev_region(0, 1, "toy")  # BUG


def delete_cdev_twice() -> None:
    cdev = Cdev(FileOperations())
    cdev_add(cdev, 240, 0, 1)
    cdev_del(cdev)
    cdev_del(cdev)  # BUG


def leave_device() -> None:
    cls = class_create("toys")
    device_create(cls, None, 240, 0, "toy")  # BUG
    class_destroy(cls)


def leave_class() -> None:
    class_create("toys")  # BUG


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (leave_cdev, ReportKind.RESOURCE_LEAK),
        (leave_region, ReportKind.RESOURCE_LEAK),
        (leave_device, ReportKind.RESOURCE_LEAK),
        (leave_class, ReportKind.RESOURCE_LEAK),
        (delete_cdev_twice, ReportKind.REFCOUNT),
    ],
)
def test_what_a_driver_leaves_is_named_by_its_line(broken: Callable[[], None], kind: ReportKind) -> None:
    kernel = Kernel()
    kernel.run(broken)
    kernel.close()
    assert [(report.kind, report.where) for report in kernel.reports] == [(kind, bug_in(broken))]


def leave_node() -> None:
    device_create(class_create("toys"), None, 240, 0, "toy")  # BUG


def test_a_node_that_is_left_is_named_and_its_class() -> None:
    kernel = Kernel()
    kernel.run(leave_node)
    kernel.close()
    assert [(report.kind, report.where) for report in kernel.reports] == [
        (ReportKind.RESOURCE_LEAK, bug_in(leave_node))
    ] * 2


class ToyModule(Module):
    """The driver as a module."""

    name = "toy"

    def init(self) -> None:
        self.driver = Driver()
        self.driver.load()

    def exit(self) -> None:
        self.driver.unload()


def test_a_module_stays_while_a_file_of_its_is_open(kernel: Kernel) -> None:
    module = kernel.load(ToyModule)
    process = Process(kernel)
    fd = process.open("/dev/toy2")
    with pytest.raises(Errno) as error:
        kernel.unload(module)
    assert error.value.errno == errno.EBUSY
    process.close(fd)
    kernel.unload(module)


def test_nobody_releases_files_of_a_crashed_kernel(kernel: Kernel, driver: Driver) -> None:
    process = Process(kernel)
    fd = process.open("/dev/toy2")
    calling = kernel.thread(lambda: process.ioctl(fd, 1), "app")
    kernel.run(wait_for_completion, driver.begun)
    process.close(fd)
    kernel.sched.halt(Report(ReportKind.CRASH, "a test's", "?", "test"))
    with pytest.raises(Oops):
        calling.join()
    assert [event[0] for event in driver.events] == ["open"]
