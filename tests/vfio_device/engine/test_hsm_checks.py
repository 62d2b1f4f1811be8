# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of HSM queue entries in C (spec 02 B.7), in their order, against the table read as Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.admin import Psf
from ihsm_abi.hsm_queue import ControlKind, HsmCommandWord, HsmStatus, SessionControl
from support.rig import MEMORY_IOVA, EngineRig, hsm_entry

GOOD: dict[str, int] = {
    "src_len": 100,
    "src_prp1": MEMORY_IOVA,
    "dst_len": 8192,
    "dst_prp1": MEMORY_IOVA + 4096,
    "dst_prp2": MEMORY_IOVA + 8192,
}


def expected_status(sqe: dict[str, int], readable: bool) -> HsmStatus:
    """The table of spec 02 B.7."""
    word, control = HsmCommandWord(sqe.get("command", 0)), SessionControl(sqe.get("control", 0))
    prp = [sqe.get(name, 0) & 0xFFF for name in ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2")]
    source, destination = sqe.get("src_len", 0), sqe.get("dst_len", 0)
    if word.psdt:
        return HsmStatus.INVALID_PSDT
    if word.opc not in (0, 1):
        return HsmStatus.INVALID_OPCODE
    if word.opc == 1:
        good = control.kind == ControlKind.CLOSE and control.id_valid
        return HsmStatus.SUCCESS if good else HsmStatus.INTERNAL_ERROR
    if not 1 <= source <= 4096:
        return HsmStatus.INVALID_SRC_LENGTH
    if not 1 <= destination <= 8192:
        return HsmStatus.INVALID_DST_LENGTH
    if prp[0] or prp[1]:
        return HsmStatus.INVALID_SRC_PRP
    if prp[2] or prp[3]:
        return HsmStatus.INVALID_DST_PRP
    if source > 3584:
        return HsmStatus.INTERNAL_ERROR
    return HsmStatus.SUCCESS if readable else HsmStatus.DMA_ERROR


def submit(rig: EngineRig, queue: Any, sqe: dict[str, int]) -> HsmStatus:
    """Status of an entry; SUCCESS if it was handed out, and then it is completed."""
    queue.submit(hsm_entry(7, **sqe))
    command = rig.scheduler.pull(1, 0)
    if command is not None:
        assert len(command.request) == (0 if HsmCommandWord(sqe.get("command", 0)).opc else sqe["src_len"])
        rig.engine.complete_hsm(command, b"")
    completion = queue.wait()
    assert (int(completion["cid"]), int(completion["sqhd"])) == (7, queue.tail)
    status = HsmStatus(Psf(int(completion["psf"])).sc)
    assert (command is not None) == (status is HsmStatus.SUCCESS)
    if command is None:
        assert not any(int(completion[name]) for name in ("byte_count", "control", "session_id", "short_app_id"))
    return status


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"command": HsmCommandWord.of(psdt=1, opc=9)}, HsmStatus.INVALID_PSDT),
        ({"command": HsmCommandWord.of(opc=2), "src_len": 0}, HsmStatus.INVALID_OPCODE),
        ({"command": HsmCommandWord.of(set=15)}, HsmStatus.SUCCESS),
        ({"src_len": 0, "dst_len": 0}, HsmStatus.INVALID_SRC_LENGTH),
        ({"src_len": 4097}, HsmStatus.INVALID_SRC_LENGTH),
        ({"src_len": 4096}, HsmStatus.INTERNAL_ERROR),
        ({"src_len": 3585}, HsmStatus.INTERNAL_ERROR),
        ({"src_len": 3584}, HsmStatus.SUCCESS),
        ({"src_len": 3585, "dst_prp2": 1}, HsmStatus.INVALID_DST_PRP),
        ({"dst_len": 0, "src_prp1": 1}, HsmStatus.INVALID_DST_LENGTH),
        ({"dst_len": 8193}, HsmStatus.INVALID_DST_LENGTH),
        ({"src_prp1": 0x800, "dst_prp1": 1}, HsmStatus.INVALID_SRC_PRP),
        ({"src_prp2": 0xFFF}, HsmStatus.INVALID_SRC_PRP),
        ({"dst_prp1": 8}, HsmStatus.INVALID_DST_PRP),
        ({"src_prp2": 0xDEAD_0000}, HsmStatus.SUCCESS),
        ({"src_prp1": 0}, HsmStatus.DMA_ERROR),
        ({"src_prp1": 0xDEAD_0000}, HsmStatus.DMA_ERROR),
        ({"dst_prp1": 0xDEAD_0000}, HsmStatus.SUCCESS),
        ({"command": 1}, HsmStatus.INTERNAL_ERROR),
        ({"command": 1, "control": 2}, HsmStatus.INTERNAL_ERROR),
        ({"command": 1, "control": 7}, HsmStatus.INTERNAL_ERROR),
        ({"command": 1, "control": 6, "src_len": 0, "dst_len": 0, "src_prp1": 1}, HsmStatus.SUCCESS),
    ],
)
def test_each_check(rig: EngineRig, change: dict[str, int], status: HsmStatus) -> None:
    sqe = GOOD | change
    assert expected_status(sqe, sqe["src_prp1"] == MEMORY_IOVA) is status
    assert submit(rig, rig.queue(1).create(), sqe) is status


_prp = st.one_of(st.just(MEMORY_IOVA), st.just(0), st.integers(0, 2**64 - 1), st.just(MEMORY_IOVA | 1))
_length = st.one_of(st.sampled_from([0, 1, 3584, 3585, 4096, 4097, 8192, 8193, 2**32 - 1]), st.integers(0, 9000))
_sqes = st.fixed_dictionaries(
    {
        "command": st.one_of(st.integers(0, 3), st.integers(0, 0xFFFF)),
        "src_len": _length, "src_prp1": _prp, "src_prp2": _prp,
        "dst_len": _length, "dst_prp1": _prp, "dst_prp2": _prp,
        "control": st.integers(0, 255), "session_id": st.integers(0, 0xFFFF),
    }
)  # fmt: skip


@settings(max_examples=20)
@given(st.lists(_sqes, min_size=10, max_size=40))
def test_any_entry(sqes: list[dict[str, int]]) -> None:
    with EngineRig() as rig:
        rig.allocate(1 << 16)
        queue = rig.queue(1).create()
        end = MEMORY_IOVA + len(rig.memory)
        for sqe in sqes:
            readable = sqe["src_prp1"] >= MEMORY_IOVA and sqe["src_prp1"] + sqe["src_len"] <= end
            assert submit(rig, queue, sqe) is expected_status(sqe, readable)


def test_a_flood_of_bad_entries_is_answered_in_full(rig: EngineRig) -> None:
    queue = rig.queue(1, 256).create(vector=1)
    queue.submit(*(hsm_entry(cid, src_len=0, command=0) for cid in range(255)))
    assert rig.nothing_to_pull()
    assert [int(queue.wait()["cid"]) for _ in range(255)] == list(range(255))
    assert rig.engine.counters()["hsm_rejected"] == 255


def test_a_flood_of_bad_entries_lets_other_queues_through(rig: EngineRig) -> None:
    """Sixteen of them in one visit; then it is the turn of whoever is ready."""
    flood, other = rig.queue(1, 64).create(), rig.queue(2).create()
    flood.submit(*(hsm_entry(cid, command=2) for cid in range(63)))
    other.submit(hsm_entry(99))
    assert rig.pull().cid == 99
    assert 16 <= sum(1 for _ in iter(flood.reap, None)) < 20


def test_a_request_is_read_once(rig: EngineRig) -> None:
    """What the client writes after the doorbell does not reach a request that was handed out."""
    queue = rig.queue(1).create()
    source = rig.allocate(4096)
    rig.at(source, 64)[:] = 1
    queue.submit(hsm_entry(1, src_len=64, src_prp1=source, dst_len=64, dst_prp1=source))
    command = rig.pull()
    rig.at(source, 64)[:] = 2
    rig.memory[:4096] = np.uint8(0xFF)
    assert command.request == b"\1" * 64
    rig.engine.complete_hsm(command, b"answer")
    assert rig.at(source, 7).tobytes() == b"answer\2"
