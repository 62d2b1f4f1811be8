# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that a device can be told to do wrong, and what a driver must do about it, each declared once.

`ihsm fault actions` and docs/faults.md are made from it (scripts/fault-table), the options of `ihsm fault add` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ihsm_abi.admin import IDENTIFY
from ihsm_abi.fault_actions import (
    MAX_COUNT,
    MAX_MS,
    ActionSpec,
    DmaPart,
    FaultAction,
    FaultError,
    FaultPoint,
    Parameter,
    Resource,
)
from ihsm_abi.pci import MSIX_ENTRY_BYTES, MSIX_PBA_OFFSET, MSIX_VECTORS, Bar

MAX_BAR_BYTES: Final = 1 << 20
"""Largest size of a BAR."""
MIN_BAR_BYTES: Final = 16
"""Smallest one that a memory BAR can have."""
MAX_VECTORS: Final = MSIX_PBA_OFFSET // MSIX_ENTRY_BYTES
"""So many entries have room in front of the pending bits."""
IDENTIFY_FIELDS: Final = tuple(name for name in IDENTIFY.names or () if IDENTIFY[name].kind == "u")
"""Fields of IDENTIFY that are numbers."""

_MS: Final = Parameter("ms", "how much later, in milliseconds", 1, MAX_MS)
_COMMAND: Final = ("queue", "opcode", "operation", "session")
_COUNTED: Final = ("nth", "count", "after_ms", "for_ms", "per_mille", "seed")


def _check_bar_size(parameters: Mapping[str, int | str]) -> None:
    size = int(parameters["size"])
    if size != 0 and (size < MIN_BAR_BYTES or size & (size - 1)):
        raise FaultError("parameters.size", f"{size} is neither 0 nor a power of two from {MIN_BAR_BYTES} on")


def _check_identify(parameters: Mapping[str, int | str]) -> None:
    name, value = str(parameters["field"]), int(parameters["value"])
    if value >> 8 * IDENTIFY[name].itemsize:
        raise FaultError("parameters.value", f"{value:#x} does not fit into {name}")


def _specs() -> tuple[ActionSpec, ...]:
    A, P = FaultAction, FaultPoint
    return (
        ActionSpec(
            A.DROP_COMPLETION,
            P.COMPLETION,
            "the command is done and never answered, but counts as answered: deleting its queue waits for nothing",
            "end its wait at the time limit, ask for CSTS, delete the queue and create it anew, answer all its callers",
            "01 §8.1",
            _COMMAND,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.DELAY_COMPLETION,
            P.COMPLETION,
            "the command is done and answered later, if its queue is still there; until then it counts as outstanding",
            "as for a dropped one when it takes too long; a completion after that is one of an unknown command",
            "01 §8.1",
            _COMMAND,
            parameters=(_MS,),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.DUPLICATE_COMPLETION,
            P.COMPLETION,
            "the command is answered twice, where the completion queue has room for it",
            "take the second as one of an unknown command: go on behind it, ring the head, end no command twice",
            "01 §5.1",
            _COMMAND,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.WRONG_CID,
            P.COMPLETION,
            "the answer carries another command id",
            "take it as one of an unknown command; the command that it was for runs into its time limit",
            "01 §5.1",
            _COMMAND,
            parameters=(Parameter("cid", "the command id told", 0, 0xFFFF),),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.WRONG_PHASE,
            P.COMPLETION,
            "the answer is written with its phase bit inverted: it seems not to be there",
            "not take it for an entry, nor anything behind it; the commands run into their time limits",
            "01 §5.1",
            _COMMAND,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.WRONG_SQHD,
            P.COMPLETION,
            "the answer carries another head of the submission queue",
            "submit no more than it believes to be free; a queue that looks full for good needs a reset",
            "01 §5.1",
            _COMMAND,
            parameters=(Parameter("sqhd", "the head told", 0, 0xFFFF),),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.WRONG_STATUS,
            P.COMPLETION,
            "the command is done and its answer carries another status",
            "hand the status to the caller and end the command as any other",
            "01 §6, §14.3",
            _COMMAND,
            parameters=(
                Parameter("status", "bits 15:1 of the answer's last word", 0, 0x7FFF),
                Parameter("err", "error word of an AES answer", 0, 0xFFFF, required=False),
            ),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.REORDER_COMPLETIONS,
            P.COMPLETION,
            "the answer of an HSM or AES queue is written behind its next ones, or when it is deleted; until then it "
            "counts as outstanding, and no other answer of the queue is put off so",
            "know a command by its id alone, whatever the order; the head that an answer tells never goes backwards",
            "01 §5.1",
            _COMMAND,
            whens=_COUNTED,
            parameters=(Parameter("behind", "how many answers of its queue come before it", 1, 64),),
        ),
        ActionSpec(
            A.CORRUPT_RESPONSE,
            P.RESPONSE,
            "a byte of the response to an HSM command, or of what IDENTIFY tells, is another",
            "hand on the bytes without following what is in them; the program refuses what it cannot decode",
            "02 §B.3, 01 §6.4",
            _COMMAND,
            whens=_COUNTED,
            parameters=(
                Parameter(
                    "at",
                    "which byte, from 0; if it is left out, or beyond the end, one by chance",
                    0,
                    8191,
                    required=False,
                ),
                Parameter("xor", "the bits that change; all of them if it is left out", 1, 0xFF, required=False),
            ),
        ),
        ActionSpec(
            A.CUT_RESPONSE,
            P.RESPONSE,
            "only the beginning of the response is written, and told by the completion of an HSM command",
            "take no more than is told, and no byte of its buffer that the device has not written",
            "02 §B.3, 01 §6.4",
            _COMMAND,
            whens=_COUNTED,
            parameters=(
                Parameter("bytes", "how many bytes are written", 0, 8191),
                Parameter("told", "how many the completion tells, if another number", 0, 0xFFFF, required=False),
            ),
        ),
        ActionSpec(
            A.HOLD_COMMAND,
            P.FETCH,
            "the command is not carried out before the fault ends; deleting its queue waits for it, disabling drops it",
            "as for a dropped completion; bear a DELETE_SQ that waits, and reset the controller when that fails",
            "01 §8.2",
            _COMMAND,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.FAIL_DMA,
            P.FETCH,
            "a part of the command lies in memory out of reach",
            "hand the status to the caller; a queue that has stopped runs into the time limit",
            "01 §14.4",
            _COMMAND,
            parameters=(Parameter("part", "what is out of reach", choices=tuple(DmaPart)),),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.RESET_FUNCTION,
            P.FETCH,
            "the function is reset in mid-command, as by a function level reset; the command is never answered",
            "find out by a time limit; its admin queue is dead too, so that it must reset the controller",
            "01 §8.6",
            _COMMAND,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.NEVER,
            P.FETCH,
            "nothing, but the command must not be seen: whoever waits for a fault of the function fails at once",
            "not send it, in the state that the test is about",
            "01 §8.2, §13",
            _COMMAND,
            whens=("nth", "after_ms", "for_ms"),
        ),
        ActionSpec(
            A.EXHAUST_RESOURCE,
            P.RESOURCE,
            "there is none left of what a command needs, and it is refused so",
            "hand the refusal to the caller; the refusal of a queue fails a probe, which gives back what it has",
            "01 §14.4, 02 §B.7, 04 §11",
            whens=_COUNTED,
            parameters=(Parameter("resource", "what there is none of", choices=tuple(Resource)),),
        ),
        ActionSpec(
            A.LOSE_INTERRUPT,
            P.INTERRUPT,
            "the vector is not raised",
            "bear that a completion is found with the next interrupt or not in time; nobody polls",
            "01 §5.2",
            ("vector",),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.DELAY_INTERRUPT,
            P.INTERRUPT,
            "the vector is raised later, if a completion queue still uses it",
            "as for a lost one when it takes too long, and bear one for which there is nothing any more",
            "01 §5.2",
            ("vector",),
            parameters=(_MS,),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.SPURIOUS_INTERRUPT,
            P.TIME,
            "a vector is raised once, for no completion",
            "look at its queues, find nothing and do nothing, also for a vector that it does not use",
            "01 §5.2",
            whens=("after_ms",),
            parameters=(Parameter("vector", "the vector raised", 0, MSIX_VECTORS - 1),),
        ),
        ActionSpec(
            A.STORM_INTERRUPT,
            P.TIME,
            "a vector is raised over and over, for no completion",
            "get on with its work, and find each completion once",
            "01 §5.2",
            whens=("count", "after_ms", "for_ms"),
            parameters=(
                Parameter("vector", "the vector raised", 0, MSIX_VECTORS - 1),
                Parameter("us", "microseconds from one to the next", 10, 1_000_000),
            ),
        ),
        ActionSpec(
            A.SET_CFS,
            P.REGISTER,
            "a read of CSTS of a ready controller finds CFS set; it stays set until disable, NSSR or reset",
            "reset the controller, without a DELETE_SQ before; CFS is looked at only when RDY has its value",
            "01 §8.4",
            whens=_COUNTED,
        ),
        ActionSpec(
            A.NEVER_READY,
            P.ENABLE,
            "the controller does not become ready before the fault ends",
            "give up after (CAP.TO + 1) × 500 ms, with everything given back",
            "01 §4.1",
            whens=_COUNTED,
        ),
        ActionSpec(
            A.LATE_READY,
            P.ENABLE,
            "the controller becomes ready later: after so many reads of CSTS, or so much time, whichever is last",
            "wait so long as CAP.TO says",
            "01 §4.1",
            parameters=(
                Parameter("reads", "reads of CSTS that find RDY 0", 1, MAX_COUNT, required=False),
                Parameter("ms", "how much later, in milliseconds", 1, MAX_MS, required=False),
            ),
            any_parameter=True,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.NEVER_DISABLED,
            P.DISABLE,
            "the queues end, but RDY stays 1 until the fault ends or CC.EN is cleared once more",
            "give up after (CAP.TO + 1) × 500 ms and go on with what it was about to do",
            "01 §4.2",
            whens=_COUNTED,
        ),
        ActionSpec(
            A.NEVER_RESET,
            P.SUBSYSTEM_RESET,
            "the queues end, but RDY stays 1 until the fault ends, CC.EN is cleared or NSSR written once more",
            "give up after (CAP.TO + 1) × 500 ms and disable the controller before it enables it",
            "01 §4.5",
            whens=_COUNTED,
        ),
        ActionSpec(
            A.ALL_ONES,
            P.REGISTER,
            "reads of registers give ones and writes do nothing, nor doorbells, as if the device had gone; "
            "after `count` reads it is back",
            "take CSTS of all ones as a device that has gone: ENODEV, no endless loop, everything given back on unbind",
            "01 §2.2",
            ("register",),
            whens=_COUNTED,
        ),
        ActionSpec(
            A.REMOVE_FUNCTION,
            P.TIME,
            "the function is gone, as if it were pulled out: its queues end, reads of registers, MSI-X table and "
            "configuration space give ones and writes do nothing; when the fault ends it is there as at power-on",
            "take it as a device that has gone; a bind works again when it is back",
            "01 §2.2, §13",
            whens=("after_ms", "for_ms"),
        ),
        ActionSpec(
            A.PAUSE_PROCESS,
            P.TIME,
            "the device's process stands still, with all its functions: no access is answered, no command carried out, "
            "nor does its control socket answer",
            "bear a read of a register that takes long; commands run into their time limits, and come late after them",
            "01 §8.1, §9",
            whens=("after_ms",),
            parameters=(Parameter("ms", "how long, in milliseconds", 1, MAX_MS),),
        ),
        ActionSpec(
            A.GRANT_QUEUES,
            P.FEATURES,
            "other numbers of queues are granted than there are; 0 is told as 0xFFFF in both halves: none",
            "create as many queues as are granted: none for the HSM fails the probe, none for AES does not",
            "01 §6.5",
            ("opcode",),
            parameters=(
                Parameter("hsm", "HSM queue pairs granted", 0, 0xFFFF, required=False),
                Parameter("aes", "AES queue pairs granted", 0, 0xFFFF, required=False),
            ),
            any_parameter=True,
            whens=_COUNTED,
        ),
        ActionSpec(
            A.WRONG_BAR_SIZE,
            P.START,
            "a BAR has another size; with 0 it is not there",
            "fail the probe with ENOMEM, for each of the three must have 4096 bytes",
            "01 §1",
            parameters=(
                Parameter("bar", "which BAR", choices=tuple(bar.name.lower() for bar in Bar)),
                Parameter("size", "bytes: 0, or a power of two from 16 on", 0, MAX_BAR_BYTES),
            ),
            check=_check_bar_size,
        ),
        ActionSpec(
            A.WRONG_VECTORS,
            P.START,
            "there are more or fewer MSI-X vectors; with 0 there is no MSI-X capability",
            "fail the probe where they are too few, ENOSPC below 3, and use no vector that there is not",
            "01 §1.2",
            parameters=(Parameter("vectors", "how many there are", 0, MAX_VECTORS),),
        ),
        ActionSpec(
            A.WRONG_IDENTIFY,
            P.START,
            "a field of what IDENTIFY tells has another value",
            "fail the probe with EINVAL where an entry size is not its own; the other fields are to show",
            "01 §6.4",
            parameters=(
                Parameter("field", "which field", choices=IDENTIFY_FIELDS),
                Parameter("value", "what it tells", 0, 0xFFFF_FFFF_FFFF_FFFF),
            ),
            check=_check_identify,
        ),
        ActionSpec(
            A.WRONG_CAP_TO,
            P.START,
            "CAP.TO, the longest time of a change of CSTS.RDY, is another; the device is as quick as ever",
            "wait for a change of RDY no longer than (CAP.TO + 1) × 500 ms",
            "01 §4.1",
            parameters=(Parameter("to", "CAP.TO, in 500 ms less one", 0, 0xFF),),
        ),
    )


ACTIONS: Final[Mapping[FaultAction, ActionSpec]] = MappingProxyType({spec.action: spec for spec in _specs()})
"""Every action's declaration, in the order of `FaultAction`."""
