# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Folders and files of sysfs."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator

import pytest

from ihsm_kmod.kernel.completion import Completion, complete, wait_for_completion
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.sysfs import (
    KObject,
    kobject_create_and_add,
    kobject_put,
    sysfs_create_file,
    sysfs_create_files,
    sysfs_create_link,
    sysfs_remove_files,
    sysfs_remove_link,
)
from ihsm_kmod.kernel.task import current
from support.broken_drivers import bug_in
from support.pci_drivers import running
from support.waiting import until

TOY = "/sys/module/toy"


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with running() as kernel:
        yield kernel


@pytest.fixture
def toy(kernel: Kernel) -> KObject:
    return kernel.run(kobject_create_and_add, "toy", kernel.vfs.sysfs.module)


def test_folders_nest_and_go_with_all_in_them(kernel: Kernel, toy: KObject) -> None:
    inner = kernel.run(kobject_create_and_add, "queues", toy)
    kernel.run(sysfs_create_files, inner, {"count": lambda: "3\n"})
    assert inner.path == f"{TOY}/queues"
    assert kernel.vfs.read_text(f"{TOY}/queues/count") == "3\n"
    assert kernel.vfs.listdir(TOY) == ["queues"]
    kernel.run(kobject_put, toy)
    assert not kernel.vfs.exists(TOY)
    assert not kernel.vfs.exists(f"{TOY}/queues/count")


@pytest.mark.parametrize("text", ["", "no end of line", "1\n", "a\n\nb \n", "µ\0"])
def test_a_text_is_exactly_what_show_gave(kernel: Kernel, toy: KObject, text: str) -> None:
    kernel.run(sysfs_create_files, toy, {"text": lambda: text})
    assert kernel.vfs.read_text(f"{TOY}/text") == text


def test_show_is_asked_each_time_as_a_task(kernel: Kernel, toy: KObject) -> None:
    texts = iter(["1\n", "2\n"])
    seen: list[str] = []

    def show() -> str:
        seen.append(current().comm)
        return next(texts)

    kernel.run(sysfs_create_files, toy, {"count": show})
    assert [kernel.vfs.read_text(f"{TOY}/count") for _ in range(2)] == ["1\n", "2\n"]
    assert seen == ["cat", "cat"]


def test_what_is_written_reaches_store(kernel: Kernel, toy: KObject) -> None:
    written: list[str] = []
    kernel.run(sysfs_create_file, toy, "both", lambda: "old\n", written.append, 0o644)
    kernel.vfs.write_text(f"{TOY}/both", "new\n")
    assert written == ["new\n"]
    assert stat.S_IMODE(kernel.vfs.stat(f"{TOY}/both").st_mode) == 0o644


def test_an_error_of_show_is_the_reader_s(kernel: Kernel, toy: KObject) -> None:
    def show() -> str:
        raise Errno(errno.ENODATA)

    kernel.run(sysfs_create_files, toy, {"count": show})
    with pytest.raises(Errno) as error:
        kernel.vfs.read_text(f"{TOY}/count")
    assert error.value.errno == errno.ENODATA


def test_a_crash_of_show_is_the_kernel_s(toy: KObject, kernel: Kernel) -> None:
    def show() -> str:
        return f"{1 // 0}\n"  # BUG

    kernel.run(sysfs_create_files, toy, {"count": show})
    with pytest.raises(Oops):
        kernel.vfs.read_text(f"{TOY}/count")
    assert [(report.kind, report.where) for report in kernel.reports] == [(ReportKind.DIVIDE_ERROR, bug_in(show))]
    kernel.reports.clear()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{TOY}/none", errno.ENOENT),
        (f"{TOY}/count/deeper", errno.ENOTDIR),
        (TOY, errno.EISDIR),
        ("/sys", errno.EISDIR),
        (f"{TOY}/order", errno.EACCES),
        ("/proc/self", errno.ENOENT),
        ("/system", errno.ENOENT),
    ],
)
def test_what_cannot_be_read(kernel: Kernel, toy: KObject, path: str, code: int) -> None:
    kernel.run(sysfs_create_files, toy, {"count": lambda: "3\n"})
    kernel.run(sysfs_create_file, toy, "order", None, lambda text: None)
    with pytest.raises(Errno) as error:
        kernel.vfs.read_text(path)
    assert error.value.errno == code


@pytest.mark.parametrize(("mode", "code"), [(0o664, errno.EIO), (0o444, errno.EACCES)])
def test_what_cannot_be_written_or_listed(kernel: Kernel, toy: KObject, mode: int, code: int) -> None:
    """A file that its mode lets be written can be opened for that: without `store` the write fails, not the opening."""
    kernel.run(sysfs_create_files, toy, {"count": lambda: "3\n"}, mode)
    with pytest.raises(Errno) as error:
        kernel.vfs.write_text(f"{TOY}/count", "4\n")
    assert error.value.errno == code
    with pytest.raises(Errno) as error:
        kernel.vfs.listdir(f"{TOY}/count")
    assert error.value.errno == errno.ENOTDIR


def test_a_name_is_taken_once_and_a_group_is_made_wholly_or_not(kernel: Kernel, toy: KObject) -> None:
    kernel.run(sysfs_create_files, toy, {"two": lambda: "2\n"})
    with pytest.raises(Errno, match="cannot create duplicate filename '/sys/module/toy/two'") as error:
        kernel.run(sysfs_create_files, toy, {"one": lambda: "1\n", "two": lambda: "II\n"})
    assert error.value.errno == errno.EEXIST
    assert kernel.vfs.listdir(TOY) == ["two"]
    with pytest.raises(Errno) as error:
        kernel.run(kobject_create_and_add, "two", toy)
    assert error.value.errno == errno.EEXIST
    kernel.run(sysfs_remove_files, toy, ["two"])
    assert kernel.vfs.listdir(TOY) == []


def test_links_lead_to_folders_and_back(kernel: Kernel, toy: KObject) -> None:
    other = kernel.run(kobject_create_and_add, "other", kernel.vfs.sysfs.module)
    kernel.run(sysfs_create_files, other, {"name": lambda: "other\n"})
    kernel.run(sysfs_create_link, toy, other, "friend")
    assert kernel.vfs.read_text(f"{TOY}/friend/name") == "other\n"
    assert kernel.vfs.read_text(f"{TOY}/../other/name") == "other\n"
    kernel.run(sysfs_remove_link, toy, "friend")
    assert not kernel.vfs.exists(f"{TOY}/friend")
    assert kernel.vfs.exists("/sys/module/other/name")


def test_a_removal_waits_for_who_reads(kernel: Kernel, toy: KObject) -> None:
    begun, gate = Completion(), Completion()

    def show() -> str:
        complete(begun)
        wait_for_completion(gate)
        return "late\n"

    kernel.run(sysfs_create_files, toy, {"slow": show})
    reading = kernel.thread(lambda: kernel.vfs.read_text(f"{TOY}/slow"), "cat")
    kernel.run(wait_for_completion, begun)
    removing = kernel.thread(lambda: kobject_put(toy), "rmmod")
    until(lambda: removing.owner and removing.owner.waits_for, "the removal")
    assert not kernel.vfs.exists(TOY)
    assert not removing.is_done
    kernel.run(complete, gate)
    assert reading.join() == "late\n"
    removing.join()


def test_a_file_may_be_removed_by_its_own_store(kernel: Kernel, toy: KObject) -> None:
    kernel.run(sysfs_create_file, toy, "remove", None, lambda text: kobject_put(toy))
    kernel.vfs.write_text(f"{TOY}/remove", "1")
    assert not kernel.vfs.exists(TOY)


def test_a_reader_who_waits_for_the_lock_that_the_remover_has_is_a_deadlock(kernel: Kernel, toy: KObject) -> None:
    lock, locked, reads = Mutex("toy"), Completion(), Completion()

    def show() -> str:
        complete(reads)
        with lock:
            return "never\n"

    def remove() -> None:
        with lock:
            complete(locked)
            wait_for_completion(reads)
            kobject_put(toy)

    kernel.run(sysfs_create_files, toy, {"count": show})
    removing = kernel.thread(remove, "rmmod")
    kernel.run(wait_for_completion, locked)
    with pytest.raises(Oops, match="deadlock"):
        kernel.vfs.read_text(f"{TOY}/count")
    with pytest.raises(Oops):
        removing.join()
    assert [report.kind for report in kernel.reports] == [ReportKind.DEADLOCK]
    kernel.reports.clear()


def put_twice(kobj: KObject) -> None:
    kobject_put(kobj)
    kobject_put(kobj)  # BUG


def test_a_folder_is_put_once(kernel: Kernel, toy: KObject) -> None:
    kernel.run(put_twice, toy)
    assert [(report.kind, report.where) for report in kernel.reports] == [(ReportKind.REFCOUNT, bug_in(put_twice))]
    kernel.reports.clear()
