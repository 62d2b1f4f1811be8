# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What log, counts and trace are taken for."""

from __future__ import annotations

import pytest

from ihsm.conformance.catalogue import all_scenarios
from ihsm.conformance.leaks import leak_findings
from ihsm.conformance.log import log_findings
from ihsm.conformance.outstanding import Outstanding
from ihsm.trace.records import Completion, Entry, Record, RegisterWrite, Reset
from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE, AdminOpcode
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE
from ihsm_abi.pci import Bar
from ihsm_abi.registers import NSSR_MAGIC, Cc, Register
from ihsm_abi.trace import TraceReset
from support.ioctls import structure_bytes

QUIET, FAULTY = (next(one for one in all_scenarios() if one.name == name) for name in ("bind/used", "fault/set-cfs"))


def rules(lines: list[str], scenario: object = QUIET) -> list[str]:
    return [finding.rule for finding in log_findings(scenario, lines, ["azihsm"])]  # type: ignore[arg-type]


def test_a_report_of_the_small_kernel_is_told_by_its_kind() -> None:
    line = "[    1.000000] WARNING: DMA-API: device driver has pending DMA allocations while released from device: x"
    assert rules([line]) == ["log-dma"]
    assert rules(["[    0.500000] WARNING: sleeping function called from invalid context: at driver.py:7"]) == [
        "log-warning"
    ]
    assert rules(["[    0.500000] BUG: kernel NULL pointer dereference: None at driver.py:7 in app/9"]) == ["log-oops"]


def test_the_drivers_own_words_count_where_nothing_was_wrong() -> None:
    line = "[    2.000000] azihsm 0000:00:04.0: probe with driver azihsm failed with error -5"
    assert rules([line]) == ["log-driver"]
    assert rules([line], FAULTY) == []
    assert rules(["[    2.000000] azihsm 0000:00:04.0: controller enabled", "[    2.1] ata1: failed"]) == []


@pytest.mark.parametrize(
    ("numbers", "leaks"),
    [
        ([5, 6, 7, 8], True),
        ([0, 6, 6, 8], False),
        ([9, 3, 4, 5], True),
        ([5, 6, 7], False),
        ([5, 5, 5, 5], False),
        ([], False),
    ],
)
def test_a_leak_grows_with_each_bind_but_the_first(numbers: list[int], leaks: bool) -> None:
    found = leak_findings("01 §13", [{"interrupts": number, "regions": 3} for number in numbers])
    assert [finding.rule for finding in found] == ["bind-leaks"] * leaks
    assert all("interrupts" in finding.message for finding in found)


def followed(*records: Record) -> int:
    outstanding = Outstanding()
    for record in records:
        outstanding.follow(record)
    return len(outstanding)


def hsm(cid: int) -> Entry:
    return Entry(queue=1, slot=0, data=structure_bytes(HSM_SQE, cid=cid))


def answered(cid: int) -> Completion:
    return Completion(queue=1, slot=0, vector=1, phase=1, data=structure_bytes(HSM_CQE, cid=cid))


def admin(opcode: AdminOpcode, cid: int, dw10: int = 0) -> Entry:
    return Entry(queue=0, slot=0, data=structure_bytes(ADMIN_SQE, opc=opcode, cid=cid, dw10=dw10))


def register(offset: Register, value: int) -> RegisterWrite:
    return RegisterWrite(region=Bar.REGISTERS, offset=offset, width=4, value=value)


def test_commands_that_wait_for_an_answer() -> None:
    assert followed(hsm(1), hsm(2)) == 2
    assert followed(hsm(1), hsm(2), answered(1)) == 1
    assert followed(hsm(1), answered(2)) == 1
    done = Completion(queue=0, slot=0, vector=0, phase=1, data=structure_bytes(ADMIN_CQE, cid=4))
    assert followed(hsm(1), hsm(2), admin(AdminOpcode.DELETE_SQ, 4, 1), done) == 0


@pytest.mark.parametrize(
    "ended",
    [register(Register.CC, 0), register(Register.NSSR, NSSR_MAGIC), Reset(reset=TraceReset.FUNCTION_LEVEL)],
)
def test_whoever_resets_asks_nothing_any_more(ended: Record) -> None:
    assert followed(hsm(1), ended) == 0
    assert followed(hsm(1), register(Register.CC, Cc.of(en=1))) == 1
