# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses that commands name and that are out of reach: the log has command, address and likely cause."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.aes_queue import SglType
from ihsm_abi.doorbells import sq_tail_offset
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device.commands import Refusal, Unreachable, UnreachableKind
from ihsm_device.unreachable_log import REPEAT_AFTER_S, UnreachableLog, text
from support.aes_rig import GCM_ID, AesRig, descriptor, gcm_job, gcm_sqe, standard_rig
from support.polled import PolledDriver
from support.process import serve
from support.rig import MEMORY_IOVA, EngineRig, RigQueue, hsm_entry
from support.waiting import until

NOWHERE = 0xDEAD_0000
ROM, BAR_LIKE = 0x9000_0000, 0xA000_0000


@pytest.fixture
def rig() -> Iterator[EngineRig]:
    with EngineRig() as rig:
        yield rig


def described(what: Unreachable | None) -> tuple[UnreachableKind, Refusal, int, int, int]:
    assert what is not None
    return what.kind, what.reason, what.queue_id, what.cid, what.iova


def test_an_entry_that_cannot_be_read(rig: EngineRig) -> None:
    queue = RigQueue(rig, 1, 16)
    rig.engine.create_cq(1, queue.cq_iova, 16, None)
    rig.engine.create_sq(1, NOWHERE, 16, 1)
    rig.engine.doorbell(sq_tail_offset(1), 1)
    assert rig.nothing_to_pull()
    assert described(rig.scheduler.pull_unreachable()) == (UnreachableKind.ENTRY, Refusal.NOT_MAPPED, 1, 0, NOWHERE)


def test_a_completion_that_cannot_be_written(rig: EngineRig) -> None:
    queue = RigQueue(rig, 1, 16)
    rig.host.map(ROM, bytearray(PAGE_BYTES), writable=False)
    rig.engine.create_cq(1, ROM, 16, None)
    rig.engine.create_sq(1, queue.sq_iova, 16, 1)
    queue.submit(hsm_entry(5))
    rig.engine.complete_hsm(rig.pull(), b"")
    assert described(rig.scheduler.pull_unreachable()) == (UnreachableKind.COMPLETION, Refusal.NOT_ALLOWED, 1, 5, ROM)


def test_data_of_an_hsm_command(rig: EngineRig) -> None:
    """The first byte out of reach is named, and what waits already is counted."""
    rig.host.map_without_pointer(BAR_LIKE, PAGE_BYTES)
    queue = rig.queue(1).create()
    page, behind = rig.allocate(PAGE_BYTES), MEMORY_IOVA + len(rig.memory)
    fields = {"src_len": 64, "dst_len": 64, "dst_prp1": page}
    for cid in (1, 2, 3):
        queue.submit(hsm_entry(cid, src_prp1=BAR_LIKE, **fields))
    assert rig.nothing_to_pull()
    what = rig.scheduler.pull_unreachable()
    assert described(what) == (UnreachableKind.SOURCE, Refusal.WITHOUT_POINTER, 1, 1, BAR_LIKE)
    assert what is not None
    assert what.count == 3
    queue.submit(hsm_entry(4, **fields | {"src_prp1": page, "dst_prp1": behind}))
    rig.engine.complete_hsm(rig.pull(), b"answer")
    assert described(rig.scheduler.pull_unreachable()) == (
        UnreachableKind.DESTINATION,
        Refusal.NOT_MAPPED,
        1,
        4,
        behind,
    )


@pytest.fixture
def aes() -> Iterator[AesRig]:
    with standard_rig(aes_workers=0) as rig:
        yield rig


@pytest.mark.parametrize("case", ["source", "destination", "list", "tail"])
def test_data_and_lists_of_an_aes_command(aes: AesRig, case: str) -> None:
    good, bad = descriptor(aes.memory.allocate(16), 16), descriptor(NOWHERE, 16)
    chain = descriptor(NOWHERE, 16, SglType.LAST_SEGMENT)
    src, dst = {"source": (bad, good), "destination": (good, bad), "list": (good, chain), "tail": (good, good)}[case]
    sqe = gcm_sqe(key_id=GCM_ID, cmd_id=9, src_len=16, dst_len=16, src=src, dst=dst)
    if case == "tail":
        sqe = gcm_job(aes.memory, GCM_ID, bytes(12), b"tail").sqe
        sqe["cmd_id"], sqe["tail_dst_addr"] = 9, NOWHERE
    assert aes.run(sqe.tobytes()).status != (0, 0)
    kind = UnreachableKind.DESTINATION if case in ("destination", "tail") else UnreachableKind.SOURCE
    assert described(aes.scheduler.pull_unreachable()) == (kind, Refusal.NOT_MAPPED, FIRST_AES_QUEUE_ID, 9, NOWHERE)
    aes.run(gcm_job(aes.memory, GCM_ID, bytes(12), bytes(64)).sqe.tobytes())
    aes.scheduler.wake()
    assert aes.scheduler.pull_unreachable() is None, "a good command reaches all"


def test_a_line_for_each_kind_and_the_rest_counted(rig: EngineRig, caplog: pytest.LogCaptureFixture) -> None:
    log = UnreachableLog(rig.scheduler, lambda engine: 3)

    def of(kind: UnreachableKind, count: int = 1) -> Unreachable:
        return Unreachable(rig.engine, kind, Refusal.NOT_MAPPED, 1, 7, NOWHERE, count)

    with caplog.at_level(logging.WARNING):
        log.tell(of(UnreachableKind.SOURCE, 2), 100.0)
        log.tell(of(UnreachableKind.SOURCE, 5), 101.0)
        log.tell(of(UnreachableKind.ENTRY), 101.0)
        log.tell(of(UnreachableKind.SOURCE), 100.0 + REPEAT_AFTER_S)
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3
    assert "(1 more" in lines[0]
    assert "more" not in lines[1]
    assert "(5 more" in lines[2]


def test_what_a_line_says(rig: EngineRig) -> None:
    source = Unreachable(rig.engine, UnreachableKind.SOURCE, Refusal.WITHOUT_POINTER, 2, 7, NOWHERE, 1)
    assert all(
        part in text(source, 1, 0) for part in ("function 1", "HSM command 7", "queue 2", "0xdead0000", "share=on")
    )
    entry = Unreachable(rig.engine, UnreachableKind.ENTRY, Refusal.NOT_MAPPED, 0, 0, NOWHERE, 1)
    assert all(part in text(entry, 0, 0) for part in ("entry 0", "admin", "0xdead0000", "DMA address", "queue stops"))


def test_the_server_tells_of_admin_rings_nowhere(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "s")) as server:
        with VfioUserFunction(server.paths[0]) as function:
            driver = PolledDriver(function)
            driver.write(Register.AQA, 0x0007_0007)
            driver.write(Register.ASQ, NOWHERE, 8)
            driver.write(Register.ACQ, NOWHERE + PAGE_BYTES, 8)
            driver.write(Register.CC, 1)
            function.write_bar(Bar.DOORBELLS, 0, 4, 1)
            until(lambda: driver.csts.cfs, "CSTS.CFS")
            until(lambda: any("0xdead0000" in line for line in server.errors), "a line with the address")
        assert server.stop() == 0
    assert sum("0xdead0000" in line for line in server.errors) == 1
