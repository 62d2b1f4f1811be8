# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The rules, in the order in which a driver's life meets them."""

from __future__ import annotations

from typing import Final

from ihsm.trace.records import Disconnect, Doorbell, Entry, Record, RegisterRead, RegisterWrite, Reset
from ihsm.trace.rules import on_admin, on_doorbells, on_entries, on_memory, on_registers, on_time
from ihsm.trace.rules.rule import Need, Rule

_HISTORY: Final = (Need.HISTORY,)
_TIMED: Final = (Need.HISTORY, Need.TIMES)
_MAPPED: Final = (Need.HISTORY, Need.MAPPINGS)
_ENDS: Final[tuple[type[Record], ...]] = (Entry, RegisterWrite, Reset, Disconnect)
"""Records with which a queue can end: what comes too late is told then."""

RULES: Final[tuple[Rule, ...]] = (
    # Registers
    Rule(
        "register-width",
        "01 §2",
        "A register is accessed whole, or a 64-bit one in halves of 4 bytes.",
        on_registers.width,
        (RegisterRead, RegisterWrite),
    ),
    Rule(
        "register-reserved",
        "01 §2",
        "Reserved offsets are not accessed, and read-only registers not written.",
        on_registers.reserved,
        (RegisterRead, RegisterWrite),
    ),
    Rule(
        "cc-bits-kept",
        "01 §2.1",
        "A write of CC changes EN and the entry sizes alone: CC is read, modified and written.",
        on_registers.cc_kept,
        (RegisterWrite,),
        needs=_HISTORY,
    ),
    Rule(
        "nssr-value",
        "01 §4.5",
        "NSSR is written with 0x4E564D65.",
        on_registers.nssr_magic,
        (RegisterWrite,),
    ),
    # Bring-up
    Rule(
        "admin-rings-held",
        "01 §4.3",
        "AQA, ASQ and ACQ are written only while CC.EN is 0.",
        on_registers.rings_held,
        (RegisterWrite,),
        needs=_HISTORY,
    ),
    Rule(
        "enable-when-not-ready",
        "01 §4.3",
        "CC.EN is set after CSTS.RDY was read as 0, since whatever disabled or reset the controller.",
        on_registers.enable_ready,
        (RegisterWrite,),
        needs=_HISTORY,
    ),
    Rule(
        "enable-order",
        "01 §4.3",
        "AQA, ASQ and ACQ are written before CC.EN is set.",
        on_registers.enable_order,
        (RegisterWrite,),
        needs=_HISTORY,
    ),
    Rule(
        "admin-rings",
        "01 §4.3, §14.9",
        "The admin rings begin pages and have two entries or more; reserved bits of AQA are 0.",
        on_registers.admin_rings,
        (RegisterWrite,),
        needs=_HISTORY,
    ),
    Rule(
        "ready-awaited",
        "01 §4.1",
        "No doorbell of a submission queue is rung before CSTS.RDY was read as 1.",
        on_admin.ready_first,
        (Doorbell,),
        needs=_HISTORY,
    ),
    Rule(
        "create-prepared",
        "01 §4.4, §12",
        "Queues are created after IDENTIFY, and after the entry sizes were written to CC.",
        on_admin.prepared,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "queue-granted",
        "01 §6.5, §14.2",
        "Queues are created within their range of ids, and no more than SET_FEATURES has granted.",
        on_admin.granted,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "create-order",
        "01 §6.7, §7",
        "A CQ is created before the SQ of its id, on which it is created; neither exists already.",
        on_admin.create_order,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "ring-contiguous",
        "01 §6.6, §14.4",
        "Rings are physically contiguous (PC is 1) and have two entries or more.",
        on_admin.contiguous,
        (Entry,),
    ),
    Rule(
        "ring-aligned",
        "01 §6.4, §6.6, §6.7",
        "Rings and the identify page begin pages.",
        on_admin.ring_aligned,
        (Entry,),
    ),
    Rule(
        "ring-apart",
        "01 §5",
        "A ring does not lie in the memory of another that the device has.",
        on_admin.ring_apart,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "vector-range",
        "01 §1.2, §14.4",
        "HSM queues interrupt by vectors 1 to 15, AES queues by 16 to 31.",
        on_admin.vector,
        (Entry,),
    ),
    # Doorbells
    Rule(
        "doorbell-access",
        "01 §3",
        "BAR2 is never read, and written 4 bytes at a time.",
        on_registers.doorbell_access,
        (RegisterRead, RegisterWrite),
    ),
    Rule(
        "doorbell-place",
        "01 §3",
        "A write to BAR2 is to a place where a queue can have a doorbell.",
        on_doorbells.place,
        (Doorbell,),
    ),
    Rule(
        "doorbell-queue",
        "01 §3, §8.3",
        "No doorbell is rung of a queue that does not exist: before its CREATE was answered, after its DELETE was, or"
        " from a disable or NSSR to the next CREATE.",
        on_doorbells.exists,
        (Doorbell,),
        needs=_HISTORY,
    ),
    Rule(
        "reset-noticed",
        "01 §8.6",
        "After a reset of the function by somebody else no doorbell is rung before the controller is enabled again.",
        on_doorbells.reset_noticed,
        (Doorbell,),
        needs=_HISTORY,
        excuse="it has no handlers by which the kernel would tell it of a reset",
    ),
    Rule(
        "doorbell-range",
        "01 §3",
        "A doorbell's value is less than the entries of its ring.",
        on_doorbells.in_range,
        (Doorbell,),
        needs=_HISTORY,
    ),
    Rule(
        "doorbell-moves",
        "01 §3",
        "A doorbell's value is not the one before.",
        on_doorbells.moves,
        (Doorbell,),
        needs=_HISTORY,
    ),
    Rule(
        "tail-room",
        "01 §3, §5.1",
        "The tail stays behind the head that the device told last: a full ring has all entries but one.",
        on_doorbells.has_room,
        (Doorbell,),
        needs=_HISTORY,
    ),
    Rule(
        "head-posted",
        "01 §5.1",
        "The head passes only completions that were written, which their phase tells.",
        on_doorbells.posted,
        (Doorbell,),
        needs=_HISTORY,
    ),
    # Commands
    Rule(
        "entry-queue",
        "01 §3",
        "No entry comes from a queue that does not exist.",
        on_doorbells.entry_exists,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "entry-written",
        "01 §5.1",
        "The tail moves over entries that were written.",
        on_doorbells.entry_written,
        (Entry,),
    ),
    Rule(
        "cid-unique",
        "01 §5.1",
        "A command id is not used again while its command is outstanding.",
        on_doorbells.cid_free,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "entry-reserved",
        "01 §6.1, 02 B.1, C.1",
        "Reserved fields of entries are 0.",
        on_entries.reserved,
        (Entry,),
    ),
    Rule(
        "session-control",
        "02 B.2, B.4",
        "The session control flags of an HSM command fit its kind.",
        on_entries.hsm_control,
        (Entry,),
    ),
    Rule(
        "prp-pages",
        "02 B.1, B.7",
        "PRPs of an HSM command begin pages, and are as many as its length needs.",
        on_entries.prps,
        (Entry,),
    ),
    Rule(
        "aes-command",
        "02 C.1, C.2, C.6",
        "An AES command has its type, its frame type, and tails of equal length, at most 15 bytes.",
        on_entries.aes_words,
        (Entry,),
    ),
    Rule(
        "list-segments",
        "02 C.4",
        "Data pointers of an AES command are one block of data, or lead to a segment of whole descriptors in one page.",
        on_entries.lists,
        (Entry,),
    ),
    # Interrupts and what does not come
    Rule(
        "head-moves",
        "01 §5.2",
        "After an interrupt the head of a completion queue that has entries moves within the limit.",
        clock=on_time.head_moves,
        needs=_TIMED,
    ),
    Rule(
        "timeout-recovers",
        "01 §8.1, §9",
        "A command that is not answered leads to the end of its queue or of the controller within the limit: DELETE_SQ,"
        " CC.EN cleared, NSSR or a reset. A look at CSTS alone is not enough, for a health monitor looks anyway.",
        on_time.recovers_in_time,
        _ENDS,
        clock=on_time.recovers_by_now,
        finish=on_time.recovers,
        needs=_TIMED,
    ),
    Rule(
        "recovery-cause",
        "01 §8.1",
        "A queue is recovered only if a command was not answered, or the driver not told: else a wake-up was lost.",
        on_time.recovery_has_cause,
        (Entry,),
        needs=_TIMED,
    ),
    Rule(
        "fatal-heeded",
        "01 §8.4",
        "A ready controller whose CSTS.CFS was read is disabled or reset within the limit.",
        on_time.fatal_heeded_in_time,
        _ENDS,
        clock=on_time.fatal_heeded_by_now,
        finish=on_time.fatal_heeded,
        needs=_TIMED,
    ),
    # Memory
    Rule(
        "memory-mapped",
        "02 D",
        "What an entry names is mapped when the device fetches the entry.",
        on_memory.reachable,
        (Entry,),
        needs=_MAPPED,
    ),
    Rule(
        "memory-kept",
        "01 §8.2, §8.3, 02 D",
        "What a command names stays mapped until it is answered, its queue deleted or the controller disabled.",
        clock=on_memory.in_use,
        finish=on_memory.in_use_at_the_end,
        needs=_MAPPED,
    ),
    Rule(
        "ring-kept",
        "01 §13",
        "Rings stay mapped until their queue is deleted, or the controller disabled and CSTS read.",
        on_memory.rings_kept,
        (RegisterRead, RegisterWrite, Doorbell),
        finish=on_memory.rings_kept,
        needs=_MAPPED,
    ),
    # Teardown
    Rule(
        "delete-order",
        "01 §6.8, §13",
        "An SQ is deleted before its CQ; neither that is not there.",
        on_admin.delete_order,
        (Entry,),
        needs=_HISTORY,
    ),
    Rule(
        "mapping-left",
        "01 §13",
        "A driver that leaves, having deleted its queues, unmaps what it has mapped.",
        on_memory.left_behind,
        (RegisterWrite, Disconnect),
        needs=_MAPPED,
    ),
)
"""Each has one name, one section, one sentence, and code over the records."""
