# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""System calls: descriptors, shared files, signals and ends, over a character device that waits on request."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from ihsm_kmod.kernel.cdev import (
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
from ihsm_kmod.kernel.device import class_create, class_destroy, device_create, device_destroy
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.mm import copy_from_user, copy_to_user
from ihsm_kmod.kernel.module import Module
from ihsm_kmod.kernel.process import Process
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.task import current
from ihsm_kmod.kernel.wait import WaitQueueHead, wait_event_interruptible
from support.broken_drivers import lives
from support.waiting import ended, stays, until

ECHO, WAIT, INTERRUPTIBLE, CRASH, THREAD, NUMBER = range(6)
NODE = "/dev/sample0"


class Sample(Module):
    """A device that adds one to every byte, waits, or crashes; it records who opens and releases."""

    name = "sample"

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, int]] = []
        self.inside = 0
        self.go = Completion()
        self.is_refusing = False
        self._numbers = itertools.count()

    def init(self) -> None:
        self.major = alloc_chrdev_region(0, 1, self.name)
        self.cdev = Cdev(FileOperations(self.opened, self.ioctl, self.released))
        cdev_add(self.cdev, self.major, 0, 1)
        self.cls = class_create(self.name)
        device_create(self.cls, None, self.major, 0, "sample0")

    def exit(self) -> None:
        device_destroy(self.cls, self.major, 0)
        class_destroy(self.cls)
        cdev_del(self.cdev)
        unregister_chrdev_region(self.major)

    def opened(self, inode: Inode, file: File) -> None:
        if self.is_refusing:
            raise Errno(errno.EBUSY)
        file.private_data = next(self._numbers)
        self.events.append(("open", current().tgid))

    def released(self, inode: Inode, file: File) -> None:
        self.events.append(("release", current().tgid))
        raise Errno(errno.EIO)

    def ioctl(self, file: File, command: int, argument: int) -> int:
        self.inside += 1
        if command == ECHO:
            return copy_to_user(argument, bytes(byte + 1 for byte in copy_from_user(argument, 4)))
        if command == WAIT:
            wait_for_completion(self.go)
        if command == INTERRUPTIBLE:
            wait_event_interruptible(WaitQueueHead(), lambda: False)
        if command == CRASH:
            lives.null_pointer()
        if command == THREAD:
            return threading.get_ident() == argument
        return int(file.private_data)


@pytest.fixture
def sample(kernel: Kernel) -> Iterator[Sample]:
    sample = kernel.load(Sample)
    yield sample
    if not kernel.crashed:
        kernel.unload(sample)
        assert kernel.vfs.open_files == 0
        assert kernel.reports == []


@pytest.fixture
def process(kernel: Kernel, sample: Sample) -> Iterator[Process]:
    process = Process(kernel)
    yield process
    if not kernel.crashed:
        process.exit()
        until(lambda: process.has_ended, "it has ended")


def refused(call: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - what is asserted is the number
        call()
    return caught.value.errno or 0


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Make a call in a thread; what it returned, or the error's number."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.mark.parametrize("kind", [bytearray, np.frombuffer, memoryview])
def test_a_driver_reads_and_writes_the_callers_bytes(process: Process, kind: Callable[..., bytearray]) -> None:
    memory = bytearray(b"\1\2\3\4")
    fd = process.open(NODE)
    argument = kind(memory, dtype=np.uint8) if kind is np.frombuffer else kind(memory)
    assert process.ioctl(fd, ECHO, argument) == 0
    assert bytes(argument) == b"\2\3\4\5"


def test_bytes_that_cannot_be_written_are_no_argument(process: Process) -> None:
    fd = process.open(NODE)
    with pytest.raises(TypeError):
        process.ioctl(fd, ECHO, b"\1\2\3\4")  # type: ignore[arg-type]


def test_a_wrong_address_is_the_drivers_to_find(process: Process) -> None:
    fd = process.open(NODE)
    assert refused(lambda: process.ioctl(fd, ECHO, 16)) == errno.EFAULT


def test_a_call_runs_in_the_callers_thread(process: Process) -> None:
    assert process.ioctl(process.open(NODE), THREAD, threading.get_ident()) == 1


def test_descriptors_are_the_lowest_free(process: Process) -> None:
    assert [process.open(NODE) for _ in range(3)] == [3, 4, 5]
    process.close(4)
    assert process.dup(3) == 4
    assert [process.ioctl(fd, NUMBER) for fd in (3, 4, 5)] == [0, 0, 2]


def test_errors_are_those_of_the_system(process: Process, sample: Sample) -> None:
    assert refused(lambda: process.open("/dev/nothing")) == errno.ENOENT
    for call in (lambda: process.ioctl(7, ECHO), lambda: process.close(7), lambda: process.dup(7)):
        assert refused(call) == errno.EBADF
    sample.is_refusing = True
    assert refused(lambda: process.open(NODE)) == errno.EBUSY


def test_the_last_descriptor_releases(process: Process, sample: Sample) -> None:
    fd = process.open(NODE)
    copy = process.dup(fd)
    process.close(fd)
    assert sample.events == [("open", process.tgid)]
    process.close(copy)
    assert sample.events[1:] == [("release", process.tgid)]


def test_a_child_shares_files_and_releases_those_it_has_last(process: Process, sample: Sample) -> None:
    fd = process.open(NODE)
    child = process.fork()
    assert child.tgid != process.tgid
    assert child.ioctl(fd, NUMBER) == process.ioctl(fd, NUMBER)
    process.close(fd)
    assert len(sample.events) == 1
    child.exit()
    assert sample.events[1:] == [("release", child.tgid)]


class Meanwhile(dict[int, File]):
    """A process's files; whoever looks is interrupted once, so that another thread comes as far as it gets."""

    def __init__(self, process: Process, call: Callable[[], object]) -> None:
        super().__init__(process._files)
        self.call: Callable[[], object] | None = call
        self.threads: list[threading.Thread] = []

    def interrupt(self) -> None:
        call, self.call = self.call, None
        if call:
            self.threads.append(in_thread(call)[0])
            stays(lambda: True)

    def __getitem__(self, fd: int) -> File:
        file = super().__getitem__(fd)
        self.interrupt()
        return file

    def __iter__(self) -> Iterator[int]:
        for number, fd in enumerate(super().__iter__()):
            if number:
                self.interrupt()
            yield fd

    def items(self) -> Any:
        return ((fd, super(Meanwhile, self).__getitem__(fd)) for fd in self)


@pytest.mark.parametrize("call", [lambda process, fd: process.ioctl(fd, NUMBER), lambda process, fd: process.dup(fd)])
def test_a_close_in_the_middle_of_a_call(
    kernel: Kernel, process: Process, sample: Sample, call: Callable[[Process, int], int]
) -> None:
    """Either comes first, the other second: no call has a file that was released."""
    fd = process.open(NODE)
    process._files = files = Meanwhile(process, lambda: process.close(fd))
    call(process, fd)
    ended(*files.threads)
    for left in tuple(process._files):
        process.close(left)
    assert [what for what, _ in sample.events] == ["open", "release"]
    assert kernel.crashed is None


def test_a_fork_in_the_middle_of_an_open(kernel: Kernel, process: Process, sample: Sample) -> None:
    fds = [process.open(NODE) for _ in range(3)]
    process._files = files = Meanwhile(process, lambda: process.open(NODE))
    child = process.fork()
    ended(*files.threads)
    assert sorted(child._files) == fds
    child.exit()
    assert kernel.crashed is None


def test_release_waits_for_calls_in_flight(kernel: Kernel, process: Process, sample: Sample) -> None:
    fd = process.open(NODE)
    thread, results = in_thread(lambda: process.ioctl(fd, WAIT))
    until(lambda: sample.inside, "the call is in the driver")
    process.close(fd)
    assert len(sample.events) == 1
    kernel.run(complete, sample.go)
    ended(thread)
    assert results == [0]
    assert sample.events[1:] == [("release", process.tgid)]


def test_the_end_of_a_process_closes_its_files(process: Process, sample: Sample) -> None:
    fds = [process.open(NODE) for _ in range(2)]
    process.exit()
    process.exit()
    assert process.has_ended
    assert [event for event, _ in sample.events] == ["open", "open", "release", "release"]
    assert refused(lambda: process.ioctl(fds[0], NUMBER)) == errno.ESRCH


def test_a_kill_ends_calls_that_can_be_interrupted(process: Process, sample: Sample) -> None:
    fd = process.open(NODE)
    thread, results = in_thread(lambda: process.ioctl(fd, INTERRUPTIBLE))
    until(lambda: sample.inside, "the call is in the driver")
    process.kill()
    ended(thread)
    (error,) = results
    assert isinstance(error, OSError)
    assert error.errno == errno.EINTR
    assert [event for event, _ in sample.events] == ["open", "release"]


def test_a_kill_leaves_the_end_to_the_last_call(kernel: Kernel, process: Process, sample: Sample) -> None:
    fd = process.open(NODE)
    thread, results = in_thread(lambda: process.ioctl(fd, WAIT))
    until(lambda: sample.inside, "the call is in the driver")
    process.kill()
    assert not process.has_ended
    assert len(sample.events) == 1
    kernel.run(complete, sample.go)
    ended(thread)
    assert results == [0]
    assert process.has_ended
    assert sample.events[1:] == [("release", process.tgid)]


def test_ids(kernel: Kernel, sample: Sample) -> None:
    process = Process(kernel, tgid=4711, comm="app")
    seen: list[tuple[str, int, int]] = []
    sample.ioctl = lambda file, command, argument: (
        seen.append(  # type: ignore[method-assign]
            (current().comm, current().tgid, current().pid)
        )
        or 0
    )
    sample.cdev.fops = FileOperations(sample.opened, sample.ioctl, sample.released)
    fd = process.open(NODE)
    for _ in range(2):
        process.ioctl(fd, NUMBER)
    ended(in_thread(lambda: process.ioctl(fd, NUMBER))[0])
    assert seen[0] == seen[1] == ("app", 4711, 4711)
    assert seen[2][:2] == ("app", 4711)
    assert seen[2][2] != 4711
    process.exit()


def test_a_crash_ends_all_calls(kernel: Kernel, process: Process, sample: Sample) -> None:
    fd = process.open(NODE)
    oopses: list[Oops] = []

    def waits() -> None:
        try:
            process.ioctl(fd, WAIT)
        except Oops as oops:
            oopses.append(oops)

    thread, _ = in_thread(waits)
    until(lambda: sample.inside, "the call is in the driver")
    with pytest.raises(Oops):
        process.ioctl(fd, CRASH)
    ended(thread)
    assert oopses[0].report.kind is ReportKind.NULL_POINTER
    for call in (lambda: process.ioctl(fd, NUMBER), lambda: process.open(NODE), lambda: process.close(fd)):
        with pytest.raises(Oops):
            call()
    kernel.close()


def test_a_process_that_lives_longer_than_its_kernel(kernel: Kernel, process: Process, sample: Sample) -> None:
    process.open(NODE)
    with pytest.raises(Oops):
        kernel.run(lives.divide)
    with pytest.raises(Oops):
        process.open(NODE)
    process.kill()
    assert process.has_ended
