# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""References, numbers, and crashes of a driver's own code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.idr import Ida, ida_alloc, ida_free
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.kref import Kref, kref_get, kref_get_unless_zero, kref_put
from ihsm_kmod.kernel.report import ReportKind
from support.broken_drivers import bug_in, lives


def test_the_last_reference_releases(kernel: Kernel) -> None:
    released: list[int] = []
    kref = Kref(lambda: released.append(1))

    def driver() -> list[object]:
        kref_get(kref)
        return [kref_put(kref), list(released), kref_put(kref), released]

    assert kernel.run(driver) == [False, [], True, [1]]


def test_nobody_gets_what_is_being_released(kernel: Kernel) -> None:
    kref = Kref(lambda: None)

    def driver() -> list[bool]:
        return [kref_get_unless_zero(kref), kref_put(kref), kref_put(kref), kref_get_unless_zero(kref)]

    assert kernel.run(driver) == [True, False, True, False]
    assert kernel.reports == []


def test_the_lowest_free_number_is_next(kernel: Kernel) -> None:
    ida = Ida()

    def driver() -> list[int]:
        first = [ida_alloc(ida) for _ in range(3)]
        ida_free(ida, 1)
        return [*first, ida_alloc(ida), ida_alloc(ida)]

    assert kernel.run(driver) == [0, 1, 2, 1, 3]
    assert kernel.reports == []


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (lives.free_twice, ReportKind.IDA),
        (lives.put_twice, ReportKind.REFCOUNT),
        (lives.get_what_is_gone, ReportKind.REFCOUNT),
    ],
)
def test_ended_twice(kernel: Kernel, step: Callable[[], None], kind: ReportKind) -> None:
    kernel.run(step)
    assert [(report.kind, report.where) for report in kernel.reports] == [(kind, bug_in(step))]
    assert kernel.crashed is None


def test_every_put_too_many_is_told(kernel: Kernel) -> None:
    kref = Kref(lambda: None)
    for _ in range(3):
        kernel.run(kref_put, kref)
    assert [report.kind for report in kernel.reports] == 2 * [ReportKind.REFCOUNT]


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (lives.null_pointer, ReportKind.NULL_POINTER),
        (lives.null_element, ReportKind.NULL_POINTER),
        (lives.divide, ReportKind.DIVIDE_ERROR),
        (lives.endless, ReportKind.STACK_OVERFLOW),
        (lives.wrong_key, ReportKind.CRASH),
        (lives.crash_below_a_library, ReportKind.CRASH),
    ],
)
def test_a_crash(kernel: Kernel, step: Callable[[], object], kind: ReportKind) -> None:
    with pytest.raises(Oops) as caught:
        kernel.run(step)
    (report,) = kernel.reports
    assert (report.kind, report.where) == (kind, bug_in(step))
    assert caught.value.report is report
    assert f"BUG: {kind}: " in kernel.dmesg()
    assert kernel.crashed is not None


def test_an_errno_is_the_callers(kernel: Kernel) -> None:
    with pytest.raises(Errno):
        kernel.run(lives.refuse)
    assert kernel.crashed is None
    with pytest.raises(Errno):
        kernel.thread(lives.refuse, "fails").join()
    assert kernel.reports == []


def test_the_first_crash_is_what_all_are_told(kernel: Kernel) -> None:
    for step in (lives.divide, lives.null_pointer):
        with pytest.raises(Oops) as caught:
            kernel.run(step)
        assert caught.value.report.kind is ReportKind.DIVIDE_ERROR
    assert len(kernel.reports) == 1


def test_a_crash_that_follows_from_the_first(kernel: Kernel) -> None:
    def outlives_a_crash() -> None:
        with pytest.raises(Oops):
            kernel.run(lives.divide)
        lives.null_pointer()

    with pytest.raises(Oops) as caught:
        kernel.run(outlives_a_crash)
    assert caught.value.report.kind is ReportKind.DIVIDE_ERROR
    assert len(kernel.reports) == 1
