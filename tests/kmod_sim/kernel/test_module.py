# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Modules: parameters, what /sys/module shows of them, loading and unloading."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.module import Module, Param
from ihsm_kmod.kernel.printk import pr_info
from ihsm_kmod.kernel.report import ReportKind
from support.broken_drivers import bug_in, lives

PARAMETERS = "/sys/module/sample/parameters"


class Sample(Module):
    name: ClassVar[str] = "sample"
    slots = Param(int, 16, 0o444, "entries of a queue", clamp=lambda value: max(2, value))
    is_verbose = Param(bool, False, 0o644, "whether it says more")
    log_mask = Param(int, 1, 0o644, "what it says")

    def init(self) -> None:
        pr_info(f"{self.slots} slots")

    def exit(self) -> None:
        pr_info("gone")


class Refuses(Sample):
    def init(self) -> None:
        raise Errno(errno.ENODEV)


def test_parameters_have_defaults_and_limits(kernel: Kernel) -> None:
    assert kernel.load(Sample).slots == 16
    assert Sample(slots=1).slots == 2
    assert Sample.slots.description == "entries of a queue"
    assert [param.name for param in Sample.parameters()] == ["is_verbose", "log_mask", "slots"]


@pytest.mark.parametrize("parameters", [{"slot": 3}, {"slots": True}, {"is_verbose": 1}, {"name": 1}])
def test_what_is_no_parameter_is_refused(kernel: Kernel, parameters: dict[str, int]) -> None:
    with pytest.raises(Errno) as caught:
        kernel.load(Sample, **parameters)
    assert caught.value.errno == errno.EINVAL
    assert kernel.modules == []


def test_its_life(kernel: Kernel) -> None:
    module = kernel.load(Sample, slots=8)
    assert kernel.modules == [module]
    kernel.unload(module)
    assert kernel.modules == []
    assert [record.text for record in kernel.log] == ["8 slots", "gone"]
    assert not kernel.vfs.exists("/sys/module/sample")


def test_a_module_that_does_not_load_leaves_nothing(kernel: Kernel) -> None:
    with pytest.raises(Errno):
        kernel.load(Refuses)
    assert kernel.modules == []
    assert not kernel.vfs.exists("/sys/module/sample")


def test_parameters_are_files(kernel: Kernel) -> None:
    module = kernel.load(Sample)
    assert kernel.vfs.listdir(PARAMETERS) == ["is_verbose", "log_mask", "slots"]
    assert kernel.vfs.read_text(f"{PARAMETERS}/slots") == "16\n"
    assert kernel.vfs.read_text(f"{PARAMETERS}/is_verbose") == "N\n"
    assert kernel.vfs.stat(f"{PARAMETERS}/slots").st_mode & 0o777 == 0o444
    for text in ("Y\n", "1", "y"):
        kernel.vfs.write_text(f"{PARAMETERS}/is_verbose", text)
        assert module.is_verbose is True
    kernel.vfs.write_text(f"{PARAMETERS}/is_verbose", "0\n")
    assert module.is_verbose is False
    kernel.vfs.write_text(f"{PARAMETERS}/log_mask", "0x3f\n")
    assert module.log_mask == 0x3F


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [("log_mask", "many", errno.EINVAL), ("is_verbose", "2", errno.EINVAL), ("slots", "4", errno.EACCES)],
)
def test_what_a_file_refuses(kernel: Kernel, name: str, text: str, code: int) -> None:
    kernel.load(Sample)
    with pytest.raises(Errno) as caught:
        kernel.vfs.write_text(f"{PARAMETERS}/{name}", text)
    assert caught.value.errno == code


def test_the_kernels_end_unloads(kernel: Kernel) -> None:
    kernel.load(Sample)
    kernel.close()
    assert kernel.log[-1].text == "gone"
    assert kernel.reports == []


def test_a_crash_in_init(kernel: Kernel) -> None:
    class Crashes(Sample):
        def init(self) -> None:
            lives.null_pointer()

    with pytest.raises(Oops):
        kernel.load(Crashes)
    with pytest.raises(Oops):
        kernel.load(Sample)


def test_an_error_of_exit_reaches_nobody_and_is_a_crash(kernel: Kernel) -> None:
    class Stays(Sample):
        def exit(self) -> None:
            lives.refuse()

    kernel.load(Stays)
    kernel.close()
    assert [(report.kind, report.where) for report in kernel.reports] == [(ReportKind.CRASH, bug_in(lives.refuse))]


def test_code_of_a_module_is_that_of_its_package() -> None:
    module = lives.LeavesWork()
    assert module.has_code("support.broken_drivers.lives")
    assert module.has_code("support.broken_drivers.locks")
    assert not module.has_code("support.broken_drivers_too")
    assert not module.has_code("functools")
