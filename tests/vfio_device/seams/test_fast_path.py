# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What may happen to keys, queues and guest memory while an AES command is under way."""

from __future__ import annotations

from collections.abc import Callable
from queue import Queue

import numpy as np
import pytest

from ihsm_abi.aes_queue import GCM_SQE, AesStatus, Cipher, GcmError, SglType
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from support import aes_model
from support.aes_rig import (
    GCM_ID,
    GCM_KEY,
    XTS_ID_1,
    XTS_ID_2,
    XTS_KEY_1,
    XTS_KEY_2,
    AesRig,
    Block,
    GcmJob,
    attr,
    descriptor,
    gcm_job,
    gcm_sqe,
    read_blocks,
    write_blocks,
    write_prps,
    write_sgl,
    xts_job,
)
from support.guest_memory import GuestMemory
from support.seams import GUARD_S, Aside, Seams

QUEUE = FIRST_AES_QUEUE_ID
IV, TWEAK = bytes(range(12)), bytes(range(16))
TEXT = bytes(range(256))
SUCCESS = (AesStatus.SUCCESS, 0)
LONG_BYTES = 1 << 20
"""Four spans, with a checkpoint between any two."""


def submit(rig: AesRig, *sqes: np.ndarray) -> None:
    """Ring the doorbell from a thread of its own, which carries out short commands itself."""
    Aside(rig.queues[QUEUE].submit, [sqe.tobytes() for sqe in sqes])


def number(sqe: np.ndarray, cmd_id: int) -> np.ndarray:
    """The entry with a command id."""
    sqe["cmd_id"] = cmd_id
    return sqe


def one_block_list(memory: GuestMemory, block: Block) -> bytes:
    """The descriptor of a list of one block."""
    segment = memory.allocate(16)
    memory.write(segment, descriptor(*block))
    return descriptor(segment, 16, SglType.LAST_SEGMENT)


def test_a_key_deleted_between_two_commands_is_not_used_again(seams: Seams, aes_rig: AesRig) -> None:
    """A server holds the key of its last command; a deletion ends that."""
    sqes = [number(gcm_job(aes_rig.memory, GCM_ID, IV, TEXT).sqe, cmd_id) for cmd_id in (1, 2)]
    seams.close("AES_FETCHED", let_pass=1)
    submit(aes_rig, *sqes)
    seams.wait_standing("AES_FETCHED")
    assert aes_rig.table.withdraw(GCM_ID)
    seams.open("AES_FETCHED")
    first, second = aes_rig.queues[QUEUE].reap(2)
    assert first.status == SUCCESS
    assert second.status == (AesStatus.INVALID_FIELD_GCM, GcmError.KEY_NOT_OWNED)


@pytest.mark.parametrize("cipher", ["GCM", "XTS"])
def test_a_key_deleted_under_a_command_serves_it_to_its_end(seams: Seams, aes_rig: AesRig, cipher: str) -> None:
    """Its memory is wiped when the last user lets go, not before."""
    memory = aes_rig.memory
    if cipher == "GCM":
        job = gcm_job(memory, GCM_ID, IV, TEXT)
        sqe, dst, keys = job.sqe, job.dst, [GCM_ID]
        expected, tag = aes_model.gcm(GCM_KEY, IV, b"", 0, TEXT, decrypt=False)
    else:
        sqe, dst = xts_job(memory, (XTS_ID_1, XTS_ID_2), TWEAK, TEXT)
        keys = [XTS_ID_1, XTS_ID_2]
        expected, tag = aes_model.xts(XTS_KEY_1, XTS_KEY_2, TWEAK, 0, TEXT, decrypt=False), bytes(16)
    seams.close("AES_KEY_FOUND")
    submit(aes_rig, sqe)
    seams.wait_standing("AES_KEY_FOUND")
    assert all(aes_rig.table.withdraw(key) for key in keys)
    seams.open("AES_KEY_FOUND")
    [completion] = aes_rig.queues[QUEUE].reap(1)
    assert (completion.status, completion.tag) == (SUCCESS, tag)
    assert read_blocks(memory, dst) == expected


def test_an_entry_rewritten_after_its_fetch_is_carried_out_as_fetched(seams: Seams, aes_rig: AesRig) -> None:
    job, queue = gcm_job(aes_rig.memory, GCM_ID, IV, TEXT), aes_rig.queues[QUEUE]
    seams.close("AES_FETCHED")
    submit(aes_rig, number(job.sqe, 1))
    seams.wait_standing("AES_FETCHED")
    evil = np.zeros(1, GCM_SQE)
    queue.memory.write(queue.sq, number(evil, 2).tobytes())
    seams.open("AES_FETCHED")
    [completion] = queue.reap(1)
    assert (completion.cmd_id, completion.status) == (1, SUCCESS)
    expected, tag = aes_model.gcm(GCM_KEY, IV, b"", 0, TEXT, decrypt=False)
    assert (job.output(aes_rig.memory), completion.tag) == (expected, tag)


@pytest.mark.parametrize("aad_len", [64, 4096], ids=["copied with the text", "by itself"])
def test_the_aad_that_is_hashed_is_the_aad_that_is_written(seams: Seams, aes_rig: AesRig, aad_len: int) -> None:
    """Otherwise a guest could have AAD in the destination that no tag covers."""
    memory, aad, text = aes_rig.memory, bytes(range(64)) * (aad_len // 64), TEXT * 16
    src, dst = memory.allocate(aad_len + len(text)), memory.allocate(aad_len + len(text))
    memory.write(src, aad + text)
    sqe = gcm_sqe(
        key_id=GCM_ID, iv=IV, actual_aad_len=aad_len, aligned_aad_len=aad_len,
        src_len=aad_len + len(text), dst_len=aad_len + len(text),
        src=one_block_list(memory, (src, aad_len + len(text))), dst=one_block_list(memory, (dst, aad_len + len(text))),
    )  # fmt: skip
    seams.close("AES_AAD_HASHED")
    submit(aes_rig, sqe)
    seams.wait_standing("AES_AAD_HASHED")
    memory.write(src, bytes(aad_len))
    seams.open("AES_AAD_HASHED")
    [completion] = aes_rig.queues[QUEUE].reap(1)
    assert completion.status == SUCCESS
    written = memory.read(dst, aad_len)
    assert written[:1024] == aad[:1024], "the first piece had been read before the guest rewrote it"
    _, tag = aes_model.gcm(GCM_KEY, IV, written, aad_len, text, decrypt=False)
    assert completion.tag == tag


def long_job(rig: AesRig, cipher: str) -> np.ndarray:
    """A command with checkpoints."""
    if cipher == "GCM":
        return gcm_job(rig.memory, GCM_ID, IV, bytes(LONG_BYTES)).sqe
    return xts_job(rig.memory, (XTS_ID_1, XTS_ID_2), TWEAK, bytes(LONG_BYTES))[0]


def delete_queue_under(seams: Seams, rig: AesRig, sqe: np.ndarray) -> None:
    """Delete the queue while a command stands at its first checkpoint: it leaves there, with the status for that."""
    seams.close("AES_CHECKPOINT")
    submit(rig, sqe)
    seams.wait_standing("AES_CHECKPOINT")
    deletion = Aside(rig.engine.delete_sq, QUEUE)
    seams.wait_reached("AES_ASKED_TO_LEAVE")
    seams.open("AES_CHECKPOINT")
    assert deletion.result()
    [completion] = rig.queues[QUEUE].reap(1)
    assert completion.status == (AesStatus.DELETE_QUEUE, 0)


@pytest.mark.parametrize("cipher", ["GCM", "XTS"])
def test_a_long_command_leaves_when_its_queue_goes(seams: Seams, aes_rig: AesRig, cipher: str) -> None:
    delete_queue_under(seams, aes_rig, long_job(aes_rig, cipher))
    assert seams.reached("AES_CHECKPOINT") == 1


@pytest.mark.parametrize("end", ["disable", "reset", "close"])
def test_nothing_ends_while_a_command_is_carried_out(seams: Seams, aes_rig: AesRig, end: str) -> None:
    """After a disable the guest may use its memory for something else: no server may still be in it."""
    seams.close("AES_FETCHED")
    submit(aes_rig, gcm_job(aes_rig.memory, GCM_ID, IV, TEXT).sqe)
    seams.wait_standing("AES_FETCHED")
    happened: Queue[str] = Queue()
    ending = Aside(lambda: (getattr(aes_rig.engine, end)(), happened.put("returned")))
    waiting = Aside(lambda: (seams.wait_reached("AES_ASKED_TO_LEAVE"), happened.put("waits for the server")))
    assert happened.get(timeout=GUARD_S) == "waits for the server"
    assert not ending.done
    seams.open("AES_FETCHED")
    ending.result()
    waiting.result()


def test_a_long_command_of_another_function_waits_for_none(seams: Seams, aes_rig: AesRig) -> None:
    """One is at work and stands still; that of a second function is carried out meanwhile."""
    other = AesRig(aes_rig.store, scheduler=aes_rig.scheduler)
    try:
        other.add_standard_keys()
        seams.close("AES_FETCHED")
        submit(aes_rig, long_job(aes_rig, "GCM"))
        seams.wait_standing("AES_FETCHED")
        seams.close("AES_FETCHED", let_pass=1)
        assert other.run(long_job(other, "GCM").tobytes()).status == SUCCESS
        assert aes_rig.engine.counters()["aes_commands"] == 0
        seams.open("AES_FETCHED")
        assert aes_rig.queues[QUEUE].reap(1)[0].status == SUCCESS
    finally:
        seams.reset()
        other.close()


def scattered_job(rig: AesRig, size: int = 2048, block: int = 4) -> tuple[GcmJob, bytes]:
    """A command whose lists are long though its payload is not, and its text."""
    text = bytes(range(256)) * (size // 256)
    page = rig.memory.allocate(len(text) * 2)
    sides = []
    for side in range(2):
        blocks = [(page + at + len(text) * side, block) for at in range(0, len(text), block)]
        sides.append(blocks)
    write_blocks(rig.memory, sides[0], text)
    sqe = gcm_sqe(
        key_id=GCM_ID, iv=IV, src_len=len(text), dst_len=len(text),
        src=write_sgl(rig.memory, sides[0]), dst=write_sgl(rig.memory, sides[1]),
    )  # fmt: skip
    return GcmJob(sqe, sides[1], 0, None), text


def test_a_mapping_comes_in_the_middle_of_a_list(seams: Seams, aes_rig: AesRig) -> None:
    """Walking a list lets it in, and the pieces found before are looked up again."""
    # Little enough to be copied, behind its lists; not so many blocks that it is put off, which lets everybody in.
    job, text = scattered_job(aes_rig, size=1024, block=8)
    for place in ("AES_CHECKPOINT", "AES_AAD_HASHED"):
        seams.close(place)
    submit(aes_rig, job.sqe)
    seams.wait_standing("AES_CHECKPOINT")
    before = seams.reached("REGIONS_WRITER")
    mapping = Aside(aes_rig.host.map, 0x1000, bytearray(4096))
    seams.wait_reached("REGIONS_WRITER", before + 1)
    mapping.wait_asleep()  # it waits for the lock: who only is about to can be too late for all of the list
    assert not mapping.done
    seams.open("AES_CHECKPOINT")
    seams.wait_standing("AES_AAD_HASHED")
    mapping.result()  # while the command stands behind its lists
    seams.open("AES_AAD_HASHED")
    [completion] = aes_rig.queues[QUEUE].reap(1)
    expected, tag = aes_model.gcm(GCM_KEY, IV, b"", 0, text, decrypt=False)
    assert (completion.status, completion.tag, job.output(aes_rig.memory)) == (SUCCESS, tag, expected)


def one_block_in_many_regions(rig: AesRig, *, linked: bool) -> np.ndarray:
    """A command whose only block lies in so many regions that it takes a checkpoint; in a segment or by itself."""
    region, count = 16, 512
    base = 0x9_0000_0000
    GuestMemory(rig.host, region * count, base=base, ends=range(region, region * count, region))
    block = (base, region * count)
    lists = one_block_list(rig.memory, block) if linked else descriptor(*block)
    return gcm_sqe(key_id=GCM_ID, iv=IV, src_len=block[1], dst_len=block[1], src=lists, dst=lists)


def page_pointers(rig: AesRig, pages: int) -> np.ndarray:
    """A command with a list of so many pages on either side; each page is a step, and the list another."""
    content = bytes(pages * PAGE_BYTES)
    pointers, _ = write_prps(rig.memory, content, skew=0)
    return gcm_sqe(
        attr=attr(Cipher.GCM, sgl=False), key_id=GCM_ID, iv=IV, src_len=len(content), dst_len=len(content),
        src=pointers, dst=pointers,
    )  # fmt: skip


STRIDE = 256
"""Steps from one checkpoint to the next."""
LISTS: dict[str, Callable[[AesRig], np.ndarray]] = {
    "between blocks": lambda rig: scattered_job(rig)[0].sqe,
    "in a block": lambda rig: one_block_in_many_regions(rig, linked=False),
    "in a block of a segment": lambda rig: one_block_in_many_regions(rig, linked=True),
    "at a page of a list": lambda rig: page_pointers(rig, STRIDE + 44),
    # Two pages' lists, for the first of which there is room for two addresses; the next step is the destination's.
    "at the first page": lambda rig: page_pointers(rig, STRIDE - 3),
}


@pytest.mark.parametrize("place", LISTS)
def test_a_list_under_way_is_left_when_its_queue_goes(seams: Seams, aes_rig: AesRig, place: str) -> None:
    delete_queue_under(seams, aes_rig, LISTS[place](aes_rig))
    assert seams.reached("AES_CHECKPOINT") == 1
