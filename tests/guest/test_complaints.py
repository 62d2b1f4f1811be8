# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Drivers with one mistake each: what a guest's kernel says of it, by kind and line; on the debug kernel as well."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ihsm.guest import Accelerator, GuestConfig, Streams
from ihsm.guest.bench import Bench
from ihsm.guest.debug_kernel import debug_kernel
from ihsm.guest.errors import GuestPanicError
from ihsm.guest.kernel import GuestKernel, find_kernel
from ihsm.guest.kernel_log import Kind
from ihsm.guest.session import Finding, Session
from support.guests import EXERCISE, Outcome, broken_driver, run_guest
from support.waiting import GUEST_HANG_S

pytestmark = [pytest.mark.guest, pytest.mark.long]


@pytest.fixture(scope="module")
def debug() -> GuestKernel:
    """The debug kernel, built when it is not there yet."""
    return debug_kernel(print)


def tried(name: str, folder: Path, after: str = "", **config: object) -> tuple[Outcome, Path]:
    """A guest in which a driver is exercised, and its source."""
    source = broken_driver(name, folder)
    return run_guest(f"{EXERCISE}; {after}", build=[source], devices=1, **config), source


def found(outcome: Outcome, kind: Kind) -> Finding:
    """The first finding of a kind."""
    kinds = [finding.complaint.kind for finding in outcome.findings]
    assert kind in kinds, [str(finding) for finding in outcome.findings]
    return outcome.findings[kinds.index(kind)]


def line_of(source: Path, text: str) -> str:
    """FILE:LINE of the first line of a driver's own file that has a text."""
    (file,) = source.glob("bench_*.c")
    lines = file.read_text().splitlines()
    return f"{file}:{next(number for number, line in enumerate(lines, 1) if text in line)}"


@pytest.mark.parametrize("kernel", [find_kernel, debug_kernel])
def test_a_driver_without_a_mistake(tmp_path: Path, kernel: Callable[[], GuestKernel]) -> None:
    outcome, _ = tried("good", tmp_path, "/sbin/rmmod bench_good", kernel=kernel())
    assert outcome.status == 0
    assert [str(finding) for finding in outcome.findings] == []


def test_a_sleep_with_a_lock_held(tmp_path: Path) -> None:
    outcome, source = tried("atomic", tmp_path)
    assert found(outcome, Kind.ATOMIC_SLEEP).source == f"{line_of(source, 'wait_event_timeout')}, in sleep_locked"


def test_an_interrupt_that_is_kept(tmp_path: Path) -> None:
    outcome, _ = tried("keepirq", tmp_path, "/sbin/rmmod bench_keepirq")
    assert "leaking at least 'bench_keepirq'" in found(outcome, Kind.WARNING).complaint.title


def test_a_task_that_waits_for_ever(tmp_path: Path) -> None:
    source = broken_driver("hang", tmp_path)
    # The kernel looks every 20 s for tasks that have waited so long.
    shell = f"({EXERCISE}) & until dmesg | grep -q 'blocked for more'; do sleep 1; done"
    outcome = run_guest(shell, build=[source], devices=1)
    finding = found(outcome, Kind.HUNG_TASK)
    assert "blocked for more than 20 seconds" in finding.complaint.title
    assert finding.complaint.first_in(["bench_hang"])


def test_an_oops_has_its_line(tmp_path: Path) -> None:
    source = broken_driver("oops", tmp_path)
    findings: list[Finding] = []
    with pytest.raises(GuestPanicError):
        run_guest(EXERCISE, build=[source], devices=1, report=findings.append)
    oops = next(finding for finding in findings if finding.complaint.kind is Kind.OOPS)
    assert oops.source == f"{line_of(source, 'WRITE_ONCE')}, in follow_nothing"


def test_a_write_past_an_object_is_seen_by_the_slab_allocator(tmp_path: Path) -> None:
    outcome, source = tried("overrun", tmp_path, kernel_arguments="slub_debug=FZPU")
    finding = found(outcome, Kind.SLAB)
    assert finding.source
    assert finding.source.startswith(str(source))


def test_on_the_debug_kernel_mistakes_have_their_kind_and_line(debug: GuestKernel, tmp_path: Path) -> None:
    """One guest for all of them, which is kept: what is told after a run is of that run alone."""
    told: list[Finding] = []
    config = GuestConfig(
        kernel=debug, accelerator=Accelerator.TCG, boot_limit_s=None, command_limit_s=None, silence_limit_s=GUEST_HANG_S
    )
    with Bench(Session(config=config, shell=EXERCISE, progress=print, report=told.append)) as bench:
        for driver, kind, line, function in (
            ("overrun", Kind.MEMORY, "object[size] = 1", "write_past"),
            ("unmap", Kind.DMA, "dma_unmap_single", "unmap_twice"),
            ("atomic", Kind.ATOMIC_SLEEP, "wait_event_timeout", "sleep_locked"),
        ):
            source = broken_driver(driver, tmp_path)
            bench.session = replace(bench.session, build=[source])
            told.clear()
            assert bench.run(Streams(None, io.BytesIO(), io.BytesIO())) == 0
            finding = next(finding for finding in told if finding.complaint.kind is kind)
            file, _, number = line_of(source, line).rpartition(":")
            # The second of the two lines alike is the one too many.
            number = str(int(number) + (driver == "unmap"))
            assert finding.source == f"{file}:{number}, in {function}"
            others = {finding.complaint.kind for finding in told} - {kind}
            assert others <= {Kind.TAINT, Kind.LOCKING}, [str(finding) for finding in told]


def test_on_the_debug_kernel_a_leak_has_its_line(debug: GuestKernel, tmp_path: Path) -> None:
    outcome, source = tried("leak", tmp_path, kernel=debug)
    finding = found(outcome, Kind.LEAK)
    assert (finding.source, finding.times) == (f"{line_of(source, 'kmalloc(')}, in forget_memory", 16)


def test_on_the_debug_kernel_a_leak_is_told_of_a_module_that_has_gone(debug: GuestKernel, tmp_path: Path) -> None:
    outcome, _ = tried("leak", tmp_path, "/sbin/rmmod bench_leak", kernel=debug)
    finding = found(outcome, Kind.LEAK)
    assert finding.complaint.title == "unreferenced object of 192 bytes"
