# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Rules over lives of a driver: one that keeps them all, and for each rule lives that break it, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest

from ihsm.trace.files import numbered
from ihsm.trace.records import (
    Connect,
    Doorbell,
    FaultHit,
    Interrupt,
    Lost,
    Mark,
    Queue,
    Record,
    RegisterWrite,
    Reset,
    Start,
)
from ihsm.trace.rules import RULES, Limits, check, clock_mark, judge
from ihsm_abi.admin import AdminOpcode, CreateCqDw11, Feature
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import GONE, Aqa, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.trace import FORMAT_VERSION, NO_QUEUE, DoorbellKind, LostWhere, TraceReset
from support.trace_life import AES, ENTRIES, HSM, SIZES, Life, Place, good_life, sqe

Step = Callable[[Life], None]
NO_BUFFERS: Final = {"src_len": 0, "dst_len": 0}
TAIL, HEAD = DoorbellKind.SQ_TAIL, DoorbellKind.CQ_HEAD


def broken_rules(records: list[Record]) -> list[str]:
    """Names of the rules that a recording breaks, each once, in the order of the breaches."""
    return list(dict.fromkeys(breach.rule.name for breach in check(records)))


def up(step: Step) -> Step:
    """A step in the life of a driver that has been brought up."""

    def lived(life: Life) -> None:
        life.bring_up()
        step(life)

    return lived


def identified(step: Step) -> Step:
    """A step after IDENTIFY, entry sizes and the count of HSM queues."""

    def lived(life: Life) -> None:
        life.enable()
        life.identify()
        life.sizes()
        life.count(Feature.HSM_QUEUE_COUNT, 1)
        step(life)

    return lived


def hsm(**fields: int) -> Step:
    return up(lambda life: life.command(HSM, **fields))


def aes(**fields: int) -> Step:
    return up(lambda life: life.command(AES, **fields))


def admin(opcode: AdminOpcode, **fields: int) -> Step:
    return up(lambda life: life.admin(opcode, **fields))


def two_at_once(life: Life) -> None:
    """The second with the first one's command id."""
    pages = [life.map(), life.map()]
    for _ in range(2):
        life.submit(HSM, cid=1, source=pages[0], destination=pages[1])


def enabled_without(*registers: Register) -> Step:
    def lived(life: Life) -> None:
        life.enable()
        records = [
            record for record in life.records if not (isinstance(record, RegisterWrite) and record.offset in registers)
        ]
        life.records = records

    return lived


def enabled_with(register: Register, value: int) -> Step:
    def lived(life: Life) -> None:
        life.enable()
        for number, record in enumerate(life.records):
            if isinstance(record, RegisterWrite) and record.offset == register:
                life.records[number] = replace(record, value=value)

    return lived


def enabled_unseen(life: Life) -> None:
    life.tell_rings()
    life.write(Register.CC, 1)


def enabled_while_ready(life: Life) -> None:
    life.bring_up()
    life.write(Register.CC, SIZES)
    life.look(ready=1)
    life.tell_rings()
    life.write(Register.CC, SIZES | 1)


def commanded_before_ready(life: Life) -> None:
    life.look()
    life.tell_rings()
    life.write(Register.CC, 1)
    life.look()
    life.identify()


def created_without_identify(life: Life) -> None:
    life.enable()
    life.sizes()
    life.count(Feature.HSM_QUEUE_COUNT, 1)
    life.create(HSM, 1)


def created_without_sizes(life: Life) -> None:
    life.enable()
    life.identify()
    life.count(Feature.HSM_QUEUE_COUNT, 1)
    life.create(HSM, 1)


def created_without_count(life: Life) -> None:
    life.enable()
    life.identify()
    life.sizes()
    life.create(HSM, 1)


def created_in_each_other(life: Life) -> None:
    life.create_cq(HSM, 1)
    life.places[HSM].sq = life.places[HSM].cq
    life.create_sq(HSM)


def sq_first(life: Life) -> None:
    life.places[HSM] = Place(1, life.map(), life.map())
    life.create_sq(HSM)


def ring_of_one_entry(life: Life) -> None:
    life.admin(AdminOpcode.CREATE_CQ, prp1=life.map(), dw10=AES + 1, dw11=CreateCqDw11.of(pc=1, ien=1, ivec=17))


def created_twice(life: Life) -> None:
    life.create(HSM, 1)
    life.create_cq(HSM, 1)


def rung_after_disable(life: Life) -> None:
    life.disable()
    life.doorbell(HSM, TAIL, 1)


def rung_after_a_reset(life: Life) -> None:
    life.add(Reset(reset=TraceReset.FUNCTION_LEVEL))
    life.doorbell(HSM, TAIL, 1)


def rung_before_answer(life: Life) -> None:
    life.create_cq(HSM, 1)
    page = life.map()
    life.places[HSM].sq = page
    life.submit(ADMIN_QUEUE_ID, opc=AdminOpcode.CREATE_SQ, prp1=page, dw10=(ENTRIES - 1) << 16 | HSM, dw11=0x10003)
    life.doorbell(HSM, TAIL, 1)


def head_after_ready_was_seen_0(life: Life) -> None:
    life.answer(HSM, life.submit(HSM, **NO_BUFFERS))
    life.disable()
    life.consume(HSM)


def overfull(life: Life) -> None:
    for cid in range(3):
        life.submit(HSM, cid=cid, **NO_BUFFERS)
    life.submit(HSM, cid=3, **NO_BUFFERS)


def wrong_phase_taken(life: Life) -> None:
    cid = life.submit(HSM, **NO_BUFFERS)
    life.answer(HSM, cid, phase=0)
    life.consume(HSM)


def fetched_from_nowhere(life: Life) -> None:
    life.disable()
    life.entry(HSM, sqe(HSM, 1, **NO_BUFFERS))


def fetched_zeros(life: Life) -> None:
    life.doorbell(HSM, TAIL, 1)
    life.entry(HSM, bytes(64), 0)


def not_taken(life: Life) -> None:
    life.answer(HSM, life.submit(HSM, **NO_BUFFERS))
    life.elapse(6)
    life.look(ready=1)


def not_recovered(life: Life) -> None:
    life.submit(HSM, **NO_BUFFERS)
    for _ in range(3):
        life.elapse(6)
        life.look(ready=1)  # the health monitor


def recovered_for_nothing(life: Life) -> None:
    life.command(HSM)
    life.elapse(6.5)
    life.recover(HSM)


def failed_and_left_alone(life: Life) -> None:
    life.look(ready=1, fatal=1)
    life.elapse(11)
    life.read(Register.VS, 0)


def unmapped_before_the_command(life: Life) -> None:
    page = life.map()
    life.unmap(page)
    life.answer(HSM, life.submit(HSM, source=page, destination=page))
    life.consume(HSM)


def unmapped_too_early(life: Life) -> None:
    page = life.map()
    cid = life.submit(HSM, source=page, destination=page)
    life.unmap(page)
    life.elapse(2)
    life.answer(HSM, cid)
    life.consume(HSM)


def unmapped_and_nothing_more(life: Life) -> None:
    page = life.map()
    life.submit(HSM, source=page, destination=page)
    life.unmap(page)


def ring_given_back(life: Life) -> None:
    life.delete_sq(HSM)
    life.release(HSM)


def rings_given_back_unseen(life: Life) -> None:
    life.read(Register.CC, SIZES | 1)
    life.write(Register.CC, SIZES)
    life.release(HSM)


def cq_first(life: Life) -> None:
    life.delete_cq(HSM)


def deleted_twice(life: Life) -> None:
    life.delete_sq(HSM)
    life.delete_sq(HSM)


def mapping_left(life: Life) -> None:
    life.map()
    life.leave()
    life.bring_up(SIZES)


def mapping_left_for_good(life: Life) -> None:
    life.map()
    life.leave()
    life.disconnect()


def access(kind: type[RegisterWrite], **fields: int) -> Step:
    return lambda life: life.add(kind(**fields))


BREAKS: Final[dict[str, dict[str, Step]]] = {
    "register-width": {
        "byte of CSTS": lambda life: life.read(Register.CSTS, 0, 1),
        "8 bytes of CC": lambda life: life.write(Register.CC, 0, 8),
        "middle of ASQ": lambda life: life.write(Register.ASQ + 2, 0, 4),
        "half of a half": lambda life: life.write(Register.ACQ, 0, 2),
    },
    "register-reserved": {
        "INTMS": lambda life: life.write(0x0C, 1),
        "behind the registers": lambda life: life.read(0x38, 0),
        "write of CSTS": lambda life: life.write(Register.CSTS, 0),
        "write of CAP": lambda life: life.write(Register.CAP, 0, 8),
    },
    "cc-bits-kept": {
        "SHN": up(lambda life: life.write(Register.CC, SIZES | 1 | 1 << 14)),
        "reserved": up(lambda life: life.write(Register.CC, SIZES | 1 | 1 << 1)),
        "blindly": lambda life: (life.read(Register.CC, 0x40), life.write(Register.CC, 0))[-1],
    },
    "nssr-value": {"another": up(lambda life: life.write(Register.NSSR, 1))},
    "admin-rings-held": {
        "ASQ": up(lambda life: life.write(Register.ASQ, 0x1000, 8)),
        "AQA": up(lambda life: life.write(Register.AQA, 0x000F_000F)),
        "half of ACQ": up(lambda life: life.write(Register.ACQ + 4, 0, 4)),
    },
    "enable-when-not-ready": {"unseen": enabled_unseen, "while ready": enabled_while_ready},
    "enable-order": {
        "ACQ missing": enabled_without(Register.ACQ),
        "none": enabled_without(Register.AQA, Register.ASQ, Register.ACQ),
    },
    "admin-rings": {
        "not aligned": enabled_with(Register.ASQ, 0x10800),
        "null": enabled_with(Register.ACQ, 0),
        "one entry": enabled_with(Register.AQA, Aqa.of(asqs=3)),
        "reserved bits": enabled_with(Register.AQA, 0x1003_0003),
    },
    "ready-awaited": {"at once": commanded_before_ready},
    "create-prepared": {"without IDENTIFY": created_without_identify, "without sizes": created_without_sizes},
    "queue-granted": {
        "one too many": identified(lambda life: life.create(2, 2)),
        "not counted": created_without_count,
        "between the ranges": identified(lambda life: life.create(66, 1)),
    },
    "create-order": {
        "SQ first": identified(sq_first),
        "twice": identified(created_twice),
        "on another CQ": identified(lambda life: (life.create_cq(HSM, 1), life.create_sq(HSM, cqid=2))[-1]),
    },
    "ring-contiguous": {
        "PC of a CQ": identified(lambda life: life.create_cq(HSM, 1, pc=0)),
        "PC of an SQ": identified(lambda life: (life.create_cq(HSM, 1), life.create_sq(HSM, pc=0))[-1]),
        "one entry": up(ring_of_one_entry),
    },
    "ring-aligned": {
        "identify page": up(lambda life: life.admin(AdminOpcode.IDENTIFY, dw10=1, prp1=life.map() + 0x800)),
        "null": admin(AdminOpcode.IDENTIFY, dw10=1),
    },
    "ring-apart": {"SQ in CQ": identified(created_in_each_other)},
    "vector-range": {
        "admin's": identified(lambda life: life.create_cq(HSM, 0)),
        "AES's": identified(lambda life: life.create_cq(HSM, 16)),
        "none of the table": up(lambda life: life.create_cq(AES + 1, 32)),
    },
    "doorbell-access": {
        "read": access(RegisterWrite, region=Bar.DOORBELLS, offset=0, width=8, value=0),
        "write of 8 bytes": access(RegisterWrite, region=Bar.DOORBELLS, offset=8, width=8, value=1),
    },
    "doorbell-place": {
        "not aligned": up(lambda life: life.add(Doorbell(offset=0x0A, value=1, queue=None, which=TAIL))),
    },
    "doorbell-queue": {
        "before enable": lambda life: life.doorbell(ADMIN_QUEUE_ID, TAIL, 1),
        "never created": up(lambda life: life.doorbell(2, TAIL, 1)),
        "before its answer": identified(rung_before_answer),
        "after disable": up(rung_after_disable),
        "head, long after disable": up(head_after_ready_was_seen_0),
        "after its deletion": up(lambda life: (life.delete_sq(HSM), life.doorbell(HSM, TAIL, 1))[-1]),
    },
    "reset-noticed": {"by its next doorbell": up(rung_after_a_reset)},
    "doorbell-range": {
        "tail": up(lambda life: life.doorbell(HSM, TAIL, ENTRIES)),
        "head": up(lambda life: life.doorbell(HSM, HEAD, ENTRIES)),
    },
    "doorbell-moves": {
        "tail": up(lambda life: life.doorbell(HSM, TAIL, 0)),
        "head": up(lambda life: life.doorbell(HSM, HEAD, 0)),
    },
    "tail-room": {"a fourth of four": up(overfull)},
    "head-posted": {
        "nothing there": up(lambda life: life.doorbell(HSM, HEAD, 1)),
        "phase ignored": up(wrong_phase_taken),
        "two for one": up(
            lambda life: (
                life.answer(HSM, life.submit(HSM, **NO_BUFFERS)),
                life.doorbell(HSM, HEAD, 2),
            )[-1]
        ),
    },
    "entry-queue": {"after disable": up(fetched_from_nowhere)},
    "entry-written": {"zeros": up(fetched_zeros)},
    "cid-unique": {"twice": up(two_at_once)},
    "entry-reserved": {
        "admin byte": admin(AdminOpcode.GET_FEATURES, dw10=0xC2, raw={5: 1}),  # type: ignore[arg-type]
        "admin flags": admin(AdminOpcode.GET_FEATURES, dw10=0xC2, flags=0x40),
        "prp2": admin(AdminOpcode.GET_FEATURES, dw10=0xC2, prp2=0x1000),
        "dw11 of GET_FEATURES": admin(AdminOpcode.GET_FEATURES, dw10=0xC2, dw11=1),
        "dw12": admin(AdminOpcode.GET_FEATURES, dw10=0xC2, dw12=1),
        "HSM byte": hsm(raw={63: 1}),  # type: ignore[arg-type]
        "HSM psdt": hsm(command=1 << 14),
        "HSM control": hsm(control=0x17),
        "AES byte": aes(raw={12: 1}),  # type: ignore[arg-type]
        "descriptor": aes(raw={40: 1}),  # type: ignore[arg-type]
        "AES attr": aes(attr=0x2C | 1 << 9),
    },
    "session-control": {
        "in session without id": hsm(control=ControlKind.IN_SESSION),
        "none with id": hsm(control=ControlKind.NONE),
        "flush of nothing": hsm(command=1, control=SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)),
    },
    "prp-pages": {
        "not aligned": up(lambda life: life.submit(HSM, source=life.map(), destination=life.map() + 0x40) and None),
        "none": up(lambda life: life.submit(HSM, source=life.map()) and None),
        "second for a short one": hsm(src_prp2=0x10_4000),
        "none for a long one": hsm(dst_len=PAGE_BYTES + 1),
    },
    "aes-command": {
        "type": aes(attr=0x04),
        "frame": aes(frame_type=0),
    },
    "list-segments": {
        "type": aes(src__type=0x10),
        "block of another length": aes(src__type=0),
        "part of a descriptor": aes(dst__len=24),
        "no list": aes(src__type=0, src__len=0, src__addr=0),
    },
    "head-moves": {"interrupt ignored": up(not_taken)},
    "timeout-recovers": {"monitor only": up(not_recovered)},
    "recovery-cause": {"wake-up lost": up(recovered_for_nothing)},
    "fatal-heeded": {"ignored": up(failed_and_left_alone)},
    "memory-mapped": {"unmapped before": up(unmapped_before_the_command)},
    "memory-kept": {"too early": up(unmapped_too_early), "at the end": up(unmapped_and_nothing_more)},
    "ring-kept": {"CQ of a live queue": up(ring_given_back), "before CSTS": up(rings_given_back_unseen)},
    "delete-order": {"CQ first": up(cq_first), "twice": up(deleted_twice)},
    "mapping-left": {"seen at the next": up(mapping_left), "seen at the end": up(mapping_left_for_good)},
}
"""Lives that break each rule."""


def test_every_rule_has_lives_that_break_it() -> None:
    assert {rule.name for rule in RULES} == set(BREAKS)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in BREAKS.items() for case in cases], ids=lambda text: text
)
def test_a_life_breaks_its_rule_and_no_other(name: str, case: str) -> None:
    life = Life()
    BREAKS[name][case](life)
    assert broken_rules(life.records) == [name]


def test_a_good_life_breaks_no_rule() -> None:
    verdict = judge(numbered(good_life().records))
    assert verdict.breaches == []
    assert verdict.undecided == []


def late_handler(life: Life) -> None:
    """Completions that came before the disable are taken by a handler that was under way (spec 01 §8.3)."""
    life.answer(HSM, life.submit(HSM, **NO_BUFFERS))
    life.write(Register.CC, SIZES)
    life.consume(HSM)
    life.look()


def released_before_disable(life: Life) -> None:
    """Level 2 lets callers go before it disables the controller (spec 01 §8.3)."""
    page = life.map()
    life.submit(HSM, source=page, destination=page)
    life.unmap(page)
    life.disable()
    life.elapse(5)
    life.look()


def admin_timed_out(life: Life) -> None:
    """The id of an admin command is free after 30 s (spec 01 §6)."""
    life.submit(ADMIN_QUEUE_ID, cid=2, opc=AdminOpcode.GET_FEATURES, dw10=0xC2)
    life.elapse(30)
    life.submit(ADMIN_QUEUE_ID, cid=2, opc=AdminOpcode.GET_FEATURES, dw10=0xC2)


def admin_timed_out_on_another_clock(life: Life) -> None:
    """The same by a driver whose clock is moved, after a fault."""
    life.submit(ADMIN_QUEUE_ID, cid=2, opc=AdminOpcode.GET_FEATURES, dw10=0xC2)
    life.add(FaultHit(fault=1, queue=ADMIN_QUEUE_ID, vector=None))
    life.submit(ADMIN_QUEUE_ID, cid=2, opc=AdminOpcode.GET_FEATURES, dw10=0xC2)


def interrupt_lost(life: Life) -> None:
    """Who is not interrupted knows nothing: the queue is recovered, and there is a cause."""
    life.complete(HSM, life.submit(HSM, **NO_BUFFERS))
    life.elapse(6.4)
    life.recover(HSM)
    life.consume(HSM)
    life.command(HSM)


def answered_with_a_wrong_phase(life: Life) -> None:
    """It seems not to be there; the queue is recovered, and the next answer overwrites nothing."""
    life.answer(HSM, life.submit(HSM, **NO_BUFFERS), phase=0)
    for _ in range(2):
        life.elapse(6.4)
        life.recover(HSM)
        life.answer(HSM, life.submit(HSM, **NO_BUFFERS))  # behind the one that is not there


def client_dies(life: Life) -> None:
    """Its memory goes before the connection is seen to be lost."""
    page = life.map()
    life.submit(HSM, source=page, destination=page)
    life.unmap(page)
    life.release(HSM)
    life.release(ADMIN_QUEUE_ID)
    life.add(Reset(reset=TraceReset.LOST_CONNECTION))
    life.disconnect()
    life.elapse(20)
    life.add(Connect(pid=2, program="driver"))


def device_is_gone_for_a_while(life: Life) -> None:
    """What is written then is what was read: ones."""
    life.read(Register.CSTS, GONE)
    life.read(Register.CC, GONE)
    life.write(Register.CC, GONE & ~1)
    life.read(Register.CSTS, GONE)
    life.write(Register.AQA, 0x0003_0003)
    life.write(Register.CC, GONE)
    life.disable()
    life.bring_up(SIZES)
    life.command(HSM)


def driver_leaves_a_device_that_answers_nothing(life: Life) -> None:
    """Each command that deletes a queue takes its 30 s."""
    life.submit(HSM, **NO_BUFFERS)
    for opcode in (AdminOpcode.DELETE_SQ, AdminOpcode.DELETE_CQ):
        life.submit(ADMIN_QUEUE_ID, opc=opcode, dw10=AES)
        life.elapse(30)
        life.look(ready=1)
    life.submit(ADMIN_QUEUE_ID, opc=AdminOpcode.DELETE_SQ, dw10=HSM)
    life.elapse(30)
    life.disable()


def answered_twice(life: Life) -> None:
    cid = life.submit(HSM, **NO_BUFFERS)
    life.complete(HSM, cid)
    life.answer(HSM, cid)
    life.consume(HSM)
    life.consume(HSM)
    life.command(HSM)


def answered_late(life: Life) -> None:
    """While the recovery begins (spec 01 §8.2)."""
    cid = life.submit(HSM, **NO_BUFFERS)
    life.elapse(6.4)
    life.look(ready=1)
    life.answer(HSM, cid)
    life.delete_sq(HSM)
    life.create_sq(HSM)


def several_taken_at_once(life: Life) -> None:
    """A doorbell page that is looked at now and then shows the last value."""
    cids = [life.submit(HSM, **NO_BUFFERS) for _ in range(3)]
    for cid in cids:
        life.complete(HSM, cid)
    life.add(Interrupt(vector=1))
    life.doorbell(HSM, HEAD, 3)


def halves(life: Life) -> None:
    """64-bit registers may be accessed as 32-bit halves (spec 01 §2)."""
    life.look()
    life.tell_rings()
    place = life.places[ADMIN_QUEUE_ID]
    for register, address in ((Register.ASQ, place.sq), (Register.ACQ, place.cq)):
        life.write(register, address & 0xFFFF_FFFF)
        life.write(register + 4, address >> 32)
    life.write(Register.CC, 1)
    life.look(ready=1)
    life.identify()


def subsystem_reset(life: Life) -> None:
    """CC.EN stays 1 (spec 01 §4.5), so that it is cleared before it is set."""
    life.subsystem_reset()
    life.disable()
    life.bring_up(SIZES)


def failed_and_reset(life: Life) -> None:
    life.look(ready=1, fatal=1)
    life.disable()
    life.elapse(20)
    life.bring_up(SIZES)


@pytest.mark.parametrize(
    "step",
    [
        late_handler,
        released_before_disable,
        admin_timed_out,
        admin_timed_out_on_another_clock,
        interrupt_lost,
        answered_with_a_wrong_phase,
        answered_twice,
        client_dies,
        device_is_gone_for_a_while,
        driver_leaves_a_device_that_answers_nothing,
        answered_late,
        several_taken_at_once,
        subsystem_reset,
        failed_and_reset,
    ],
    ids=lambda step: step.__name__,
)
def test_what_the_specification_permits_breaks_no_rule(step: Step) -> None:
    life = Life()
    life.bring_up()
    step(life)
    assert broken_rules(life.records) == []


def test_halves_of_registers_make_an_address() -> None:
    life = Life()
    halves(life)
    assert broken_rules(life.records) == []


def test_a_breach_names_what_proves_it() -> None:
    life = Life()
    life.bring_up()
    two_at_once(life)
    (breach,) = check(life.records)
    assert breach.rule.section == "01 §5.1"
    assert [seen.record for seen in breach.records] == [life.records[-3], life.records[-1]]
    assert [seen.number for seen in breach.records] == [len(life.records) - 2, len(life.records)]
    assert "command id 1 of queue 1" in breach.message
    assert breach.as_json()["records"][1] == {
        "number": len(life.records),
        "kind": "ENTRY",
        "time_ns": life.records[-1].time_ns,
    }


def test_functions_are_judged_apart() -> None:
    first, second = Life(), Life()
    first.bring_up()
    second.bring_up()
    second.doorbell(2, TAIL, 1)
    others = [replace(record, function=1) for record in second.records]
    mixed = sorted([*first.records, *others], key=lambda record: record.time_ns)
    (breach,) = check(mixed)
    assert breach.function == 1


def test_after_a_loss_nothing_is_said_of_what_needs_history_until_the_next_disable() -> None:
    life = Life()
    life.bring_up()
    life.add(Lost(count=3, where=LostWhere.RING))
    life.doorbell(HSM, HEAD, 3)  # whether they were posted nobody knows
    life.command(HSM, raw={63: 1})
    verdict = judge(numbered(life.records))
    assert [breach.rule.name for breach in verdict.breaches] == ["entry-reserved"]
    undecided = {one.rule.name for one in verdict.undecided}
    assert {"head-posted", "cid-unique", "memory-mapped"} <= undecided
    assert not {"entry-reserved", "register-width"} & undecided
    life.disable()
    life.doorbell(HSM, TAIL, 1)
    assert broken_rules(life.records) == ["entry-reserved", "doorbell-queue"]


def test_a_loss_of_no_function_is_one_of_all() -> None:
    life = Life()
    life.bring_up()
    life.add(replace(Lost(count=3, where=LostWhere.READER), function=NO_QUEUE))
    life.doorbell(HSM, HEAD, 3)
    assert broken_rules(life.records) == []


def test_without_times_rules_of_time_are_undecided() -> None:
    life = Life()
    life.bring_up()
    not_recovered(life)
    verdict = judge(numbered([replace(record, time_ns=0) for record in life.records]))
    assert verdict.breaches == []
    assert {"head-moves", "timeout-recovers"} <= {one.rule.name for one in verdict.undecided}


def moved(life: Life, *seconds: float) -> None:
    for each in seconds:
        life.add(replace(Mark(text=clock_mark(each)), function=NO_QUEUE))


def test_a_clock_that_is_moved_is_time() -> None:
    life = Life()
    life.bring_up()
    life.submit(HSM, **NO_BUFFERS)
    moved(life, 6, 0.4, 30)
    assert broken_rules(life.records) == [], "its reaction may be recorded behind the mark"
    moved(life, 6)
    assert broken_rules(life.records) == ["timeout-recovers"], "the end of the recording"
    life.disable()
    assert broken_rules(life.records) == ["timeout-recovers"]


def test_a_wake_up_that_is_lost_on_a_clock_that_is_moved() -> None:
    life = Life()
    life.bring_up()
    life.command(HSM)
    moved(life, 6, 0.4)
    life.recover(HSM)
    assert broken_rules(life.records) == ["recovery-cause"]


def test_a_recovery_that_is_recorded_behind_the_mark_is_in_time() -> None:
    life = Life()
    life.bring_up()
    life.submit(HSM, **NO_BUFFERS)
    moved(life, 6, 0.4)
    life.look(ready=1)
    moved(life, 30)
    life.delete_sq(HSM)
    life.create_sq(HSM)
    assert broken_rules(life.records) == []


def test_limits_are_given() -> None:
    life = Life()
    life.bring_up()
    not_recovered(life)
    assert check(life.records, Limits(answer_s=30)) == []


def test_a_recording_may_begin_while_the_driver_works() -> None:
    life = Life()
    life.bring_up()
    life.command(HSM)
    begin = len(life.records)
    life.command(HSM)
    life.command(HSM)
    life.command(HSM)
    life.command(HSM)
    known = [
        Queue(queue=queue, vector=vector, sq_live=1, cq_live=1, sq_entries=4, sq_head=head, sq_tail=head,
              cq_entries=4, cq_head=head, cq_tail=head)
        for queue, vector, head in ((ADMIN_QUEUE_ID, 0, 3), (HSM, 1, 1), (AES, 16, 0))
    ]  # fmt: skip
    late = [Start(version=FORMAT_VERSION, ready=1, software="ihsm"), *known, *life.records[begin:]]
    verdict = judge(numbered(late))
    assert verdict.breaches == []
    assert "memory-mapped" in {one.rule.name for one in verdict.undecided}
    life.doorbell(HSM, HEAD, 3)
    late = [*late, life.records[-1]]
    assert broken_rules(late) == ["head-posted"]


def test_the_same_recording_has_the_same_verdict() -> None:
    life = good_life()
    life.doorbell(HSM, TAIL, 1)
    first, second = judge(numbered(life.records)), judge(numbered(life.records))
    assert first == second


def test_rules_have_one_name_each_and_a_sentence() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.sentence.endswith(".")
        assert rule.section.startswith(("01 §", "02 "))
