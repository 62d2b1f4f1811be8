# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Kernel logs read: recorded ones of guests, and any text at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest.kernel_log import (
    TAINTS,
    Kind,
    LogLine,
    find_complaints,
    parse_dmesg,
    parse_kmemleak,
    parse_kmsg,
    taint_complaints,
)

LOGS = Path(__file__).parents[2] / "data" / "kernel-logs"


def recorded(name: str) -> list[LogLine]:
    return parse_kmsg((LOGS / name).read_text())


def test_a_stock_boot_has_the_words_and_no_complaint() -> None:
    lines = recorded("stock-boot.kmsg")
    words = [line for line in lines if any(word in line.text.lower() for word in ("error", "fail", "bug", "warning"))]
    assert len(lines) > 300
    assert len(words) > 2
    assert find_complaints(lines, ["vfio-pci", "azihsm"]) == []


def test_each_mistake_of_a_module_is_one_complaint_and_names_it() -> None:
    found = find_complaints(recorded("stock-bugs.kmsg"), [])
    assert [(complaint.kind, complaint.title.partition(" (")[0]) for complaint in found] == [
        (Kind.WARNING, "bench: something is amiss"),
        (Kind.WARNING, "remove_proc_entry: removing non-empty directory 'irq/31', leaking at least 'bench_keepirq'"),
        (Kind.ATOMIC_SLEEP, "BUG: scheduling while atomic: sh/140/0x00000002"),
        (Kind.ATOMIC_SLEEP, "BUG: scheduling while atomic: sh/140/0x00000000"),
        (Kind.HUNG_TASK, "INFO: task sh:176 blocked for more than 20 seconds."),
    ]
    warning, keeps, atomic, _, hung = found
    assert warning.place == "/home/dev/broken/bench_warn.c:7"
    places = [complaint.first_in(["bench-warn", "bench_atomic", "bench_hang"]) for complaint in (warning, atomic, hung)]
    assert [place.function for place in places if place] == ["find_amiss", "sleep_locked", "exercise_store"]
    assert keeps.frames[1].module is None
    assert "bench_remove+" in "".join(keeps.lines)


def test_an_oops_is_one_complaint_from_its_first_line_to_its_last() -> None:
    (oops,) = find_complaints(recorded("stock-oops.kmsg"))
    assert oops.kind is Kind.OOPS
    assert oops.title == "BUG: kernel NULL pointer dereference, address: 0000000000000008"
    assert "---[ end trace" in oops.lines[-1]
    place = oops.first_in(["bench_oops"])
    assert place
    assert str(place).startswith("follow_nothing")
    assert not place.returns


def test_a_slab_report_is_one_complaint() -> None:
    (slab,) = find_complaints(recorded("slub-debug.kmsg"))
    assert (slab.kind, slab.title.rpartition(": ")[2]) == (Kind.SLAB, "Right Redzone overwritten")
    assert slab.first_in(["bench_overrun"])


def test_the_list_of_blocked_tasks_is_no_complaint() -> None:
    assert find_complaints(recorded("stock-sysrq-w.kmsg"), ["bench_hang"]) == []


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        ("Kernel panic - not syncing: Fatal exception", Kind.PANIC, None),
        ("BUG: KASAN: slab-out-of-bounds in write_past+0x40/0x60 [m]", Kind.MEMORY, None),
        ("BUG: sleeping function called from invalid context at mm/slab.h:420", Kind.ATOMIC_SLEEP, "mm/slab.h:420"),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [sh:1]", Kind.LOCKUP, None),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", Kind.LOCKUP, None),
        ("rcu: INFO: rcu_sched self-detected stall on CPU", Kind.LOCKUP, None),
        ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", Kind.OOPS, None),
        ("kernel BUG at drivers/pci/msi/msi.c:364!", Kind.OOPS, "drivers/pci/msi/msi.c:364"),
        ("WARNING: possible circular locking dependency detected", Kind.LOCKING, None),
        ("WARNING: inconsistent lock state", Kind.LOCKING, None),
        ("[ BUG: Invalid wait context ]", Kind.LOCKING, None),
        ("INFO: trying to register non-static key.", Kind.LOCKING, None),
        ("INFO: task kworker/u4:1:33 blocked for more than 20 seconds.", Kind.HUNG_TASK, None),
        ("UBSAN: array-index-out-of-bounds in drivers/a-b/x.c:10:5", Kind.UNDEFINED, "drivers/a-b/x.c:10"),
        ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", Kind.LEAK, None),
        ("DMAR: [DMA Write NO_PASID] Request device [00:04.0] fault addr 0xffff", Kind.DMA, None),
        ("irq 24: nobody cared (try booting with the \"irqpoll\" option)", Kind.INTERRUPT, None),
        ("BUG kmalloc-64 (Not tainted): Object already free", Kind.SLAB, None),
        ("BUG: Bad page state in process sh  pfn:01234", Kind.SLAB, None),
        ("WARNING: CPU: 0 PID: 1 at kernel/dma/debug.c:973 f+0x1/0x2", Kind.WARNING, "kernel/dma/debug.c:973"),
        ("list_del corruption. prev->next should be 1, but was 2", Kind.BUG, None),
        ("azihsm 0000:00:03.0: probe failed with -5", Kind.DRIVER, None),
        ("my_hsm: Errors 3", Kind.DRIVER, None),
        ("my-hsm: BUG in state", Kind.DRIVER, None),
    ],
)  # fmt: skip
def test_a_line_of_each_kind(text: str, kind: Kind, place: str | None) -> None:
    (complaint,) = find_complaints(
        parse_dmesg(f"[    1.0] before\n[    1.5] {text}\n[    2.0] after"), ["azihsm", "my_hsm"]
    )
    assert (complaint.kind, complaint.place) == (kind, place)
    assert complaint.title == text.removeprefix("[ ").removesuffix(" ]")


@pytest.mark.parametrize(
    "text",
    [
        "ACPI BIOS Error (bug): Could not resolve symbol",
        "azihsm: debug mode on",
        "azihsm 0000:00:03.0: ready",
        "azihsmx: probe failed",
        "other: probe failed",
        "azihsm: module verification failed: signature and/or required key missing - tainting kernel",
        "bug_hsm: loading out-of-tree module taints kernel.",
        "RAS: Correctable Errors collector initialized.",
        "PCI: fatal error reporting is on",
    ],
)
def test_lines_that_are_none(text: str) -> None:
    assert find_complaints([LogLine(text)], ["azihsm", "bug-hsm"]) == []


def test_what_a_driver_says_within_a_report_does_not_hide_the_report_after_it() -> None:
    texts = ["BUG: scheduling while atomic: a/1/2", "azihsm: error 5", "WARNING: inconsistent lock state"]
    found = find_complaints([LogLine(text) for text in texts], ["azihsm"])
    assert [complaint.kind for complaint in found] == [Kind.ATOMIC_SLEEP, Kind.DRIVER, Kind.LOCKING]


def test_a_message_of_a_warning_says_what_it_is_about() -> None:
    texts = [
        "------------[ cut here ]------------",
        "DMA-API: bench 0000:00:03.0: device driver tries to free DMA memory it has not allocated",
        "WARNING: CPU: 0 PID: 9 at kernel/dma/debug.c:973 check_unmap+0x5a0/0x8f0",
        "Call Trace:",
        " unmap_twice+0x10/0x20 [bench_unmap]",
        " ? guess+0x10/0x20 [bench_unmap]",
        "---[ end trace 0000000000000000 ]---",
        "azihsm: bind",
    ]
    (complaint,) = find_complaints([LogLine(text) for text in texts])
    assert complaint.kind is Kind.DMA
    assert complaint.title.startswith("DMA-API: bench")
    assert complaint.lines == tuple(texts[:-1])
    assert [frame.function for frame in complaint.frames] == ["check_unmap", "unmap_twice"]
    assert [frame.returns for frame in complaint.frames] == [False, True]


def test_where_locks_were_taken_is_not_where_the_kernel_complains() -> None:
    texts = [
        "BUG: scheduling while atomic: tee/98/0x00000002",
        "1 lock held by tee/98:",
        " #0: ff1100000974a430 (&bench->mutex){+.+.}-{3:3}, at: exercise_store+0x4c/0x317 [bench_atomic]",
        "Call Trace:",
        " dump_stack+0x10/0x12",
        " sleep_locked+0x134/0x19b [bench_atomic]",
    ]
    (complaint,) = find_complaints([LogLine(text) for text in texts])
    assert [frame.function for frame in complaint.frames] == ["dump_stack", "sleep_locked"]


def test_records_are_read_once_in_order_and_unescaped() -> None:
    text = (
        "6,8,2000000,-;b\\x09\\x0atail\n SUBSYSTEM=pci\n4,7,1000000,-,caller=T1;a\\xe4\\xc3\\xa4\n"
        "6,8,2000000,-;b\\x09\\x0atail\n5,9"
    )
    assert parse_kmsg(text) == [
        LogLine("a\ufffd\xe4", 7, 4, 1.0),
        LogLine("b\t", 8, 6, 2.0),
        LogLine("tail", 8, 6, 2.0),
    ]


def test_dmesg_with_levels_times_and_callers() -> None:
    lines = parse_dmesg("<4>[    1.250000] one\n[    2.5][  T12] two\r\nthree\n\n")
    assert lines == [LogLine("one", None, 4, 1.25), LogLine("two", None, None, 2.5), LogLine("three")]


def test_taint_bits_that_are_new_and_tell_of_a_mishap() -> None:
    letters = {taint.letter: 1 << bit for bit, taint in enumerate(TAINTS)}
    before = letters["O"] | letters["W"]
    found = taint_complaints(before, before | letters["D"] | letters["E"] | letters["B"])
    assert [(complaint.kind, complaint.title[0]) for complaint in found] == [(Kind.TAINT, "B"), (Kind.TAINT, "D")]
    assert taint_complaints(before, before) == []


def test_leaks_of_kmemleak() -> None:
    text = """unreferenced object 0xffff888012345600 (size 192):
  comm "insmod", pid 140, jiffies 4294893012 (age 12.340s)
  hex dump (first 32 bytes):
    01 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b 6b  .kkkkkkkkkkkkkkk
  backtrace:
    [<0000000012345678>] kmalloc_trace+0x27/0x90
    [<00000000abcdef01>] forget_memory+0x20/0x50 [bench_leak]
unreferenced object 0xffff888012345700 (size 8):
  backtrace:
    [<0000000012345678>] 0xffffffffa0001020
"""
    first, second = parse_kmemleak(text)
    assert (first.kind, first.title, second.title) == (
        Kind.LEAK,
        "unreferenced object of 192 bytes",
        "unreferenced object of 8 bytes",
    )
    assert (first.in_gone_code, second.in_gone_code) == (False, True)
    place = first.first_in(["bench_leak"])
    assert place
    assert (place.function, place.offset, place.returns) == ("forget_memory", 0x20, True)


_PIECES = st.sampled_from(
    [
        "BUG: ", "WARNING: CPU: 1 PID: 2 at a.c:3 f+0x1/0x2 [m]", "------------[ cut here ]------------",
        "---[ end trace 0000000000000000 ]---", "==================", "BUG: KASAN: x in f+0x1/0x2", " f+0x1/0x2",
        "4,1,2,-;", "\n", "[ 1.0]", "<3>", "\\x0a", "azihsm error", "Kernel panic - not syncing", "Call Trace:",
    ]
)  # fmt: skip


@given(st.lists(_PIECES | st.text(max_size=12), max_size=40).map("".join))
def test_any_text_is_read_and_no_line_is_in_two_reports(text: str) -> None:
    for lines in (parse_kmsg(text), parse_dmesg(text)):
        found = find_complaints(lines, ["azihsm"])
        assert sum(len(complaint.lines) for complaint in found) <= len(lines)
        assert all("\n" not in str(complaint) for complaint in found)
    assert all(complaint.lines for complaint in parse_kmemleak(text))


@given(st.lists(st.text(max_size=20)), st.integers(0, 5))
def test_a_complaint_is_found_among_any_lines_before_it(before: list[str], gap: int) -> None:
    lines = [LogLine(text) for text in [*before, *[""] * gap, "Kernel panic - not syncing: x"]]
    assert find_complaints(lines)[-1].kind is Kind.PANIC
