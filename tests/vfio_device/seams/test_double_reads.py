# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing of a guest's is read twice: memory changes as soon as it has been read, and every answer is right.

A race would find a second read by chance at best. Here it finds something else every time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm_abi.aes_queue import GCM_SQE, AesStatus, Cipher
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from ihsm_device.server import Server
from support import aes_model
from support.aes_rig import (
    GCM_ID,
    GCM_KEY,
    XTS_ID_1,
    XTS_ID_2,
    XTS_KEY_1,
    XTS_KEY_2,
    AesRig,
    attr,
    gcm_job,
    gcm_sqe,
    read_blocks,
    standard_rig,
    write_prps,
    xts_job,
    xts_sqe,
)
from support.seams import Seams

IV, TWEAK = bytes(range(12)), bytes(range(16))
SUCCESS = (AesStatus.SUCCESS, 0)
PAGE = pytest.mark.parametrize("page", [False, True], ids=["doorbells are accesses", "doorbells are stores"])
LENGTHS = [256, 1024, 5000, 70_000]
"""Copied at once, at the limit of that, in place, over more than a segment."""


def text_of(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


@pytest.fixture(params=[False, True], ids=["doorbells are accesses", "doorbells are stores"])
def spoilt(request: pytest.FixtureRequest, seams: Seams | None) -> Iterator[AesRig | None]:
    """A function with keys and an AES queue whose guest's memory changes under it."""
    if seams is None:
        yield None
        return
    with standard_rig(doorbell_page=request.param) as rig:
        seams.spoil_reads()
        yield rig
        seams.reset()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("in_place", [False, True], ids=["elsewhere", "in place"])
@pytest.mark.parametrize("decrypt", [False, True], ids=["encrypt", "decrypt"])
def test_gcm_with_lists(seams: Seams, spoilt: AesRig, length: int, in_place: bool, decrypt: bool) -> None:
    """Descriptors, AAD, text and tail."""
    aad, text, cuts = bytes(range(40)), text_of(length + 5), range(48, length, 336)
    aad_region = aes_model.padded_aad(aad)
    expected, tag = aes_model.gcm(GCM_KEY, IV, aad_region, len(aad), text, decrypt=decrypt)
    job = gcm_job(
        spoilt.memory, GCM_ID, IV, text, aad, decrypt=decrypt, tag=tag, src_cuts=cuts, dst_cuts=range(64, length, 400),
        in_place=in_place, per_segment=5,
    )  # fmt: skip
    completion = spoilt.run(job.sqe.tobytes())
    assert (completion.status, completion.len) == (SUCCESS, int(job.sqe["src_len"][0]))
    assert job.output(spoilt.memory) == expected
    assert read_blocks(spoilt.memory, job.dst)[: len(aad_region)] == aad_region
    assert decrypt or completion.tag == tag
    lists = 2 * 16 * len(cuts)
    assert seams.spoiled() >= GCM_SQE.itemsize + lists + (0 if in_place and length > 1024 else length)


@pytest.mark.parametrize("length", [256, 1024, 5120, 70_000 - 70_000 % 16])
@pytest.mark.parametrize("in_place", [False, True], ids=["elsewhere", "in place"])
def test_xts_with_lists(seams: Seams, spoilt: AesRig, length: int, in_place: bool) -> None:
    """Blocks that are split among pieces too."""
    data = text_of(length)
    sqe, dst = xts_job(
        spoilt.memory, (XTS_ID_1, XTS_ID_2), TWEAK, data, src_cuts=range(40, length, 328),
        dst_cuts=range(56, length, 472), in_place=in_place, per_segment=5,
    )  # fmt: skip
    assert spoilt.run(sqe.tobytes()).status == SUCCESS
    assert read_blocks(spoilt.memory, dst) == aes_model.xts(XTS_KEY_1, XTS_KEY_2, TWEAK, 0, data, decrypt=False)
    assert seams.spoiled() > 0


@pytest.mark.parametrize("length", [16, 4096, 5 * 4096, 100 * 4096])
def test_pages_and_lists_of_pages(seams: Seams, spoilt: AesRig, length: int) -> None:
    """PRPs; lists that lead to another list."""
    data, memory = text_of(length), spoilt.memory
    src, _ = write_prps(memory, data)
    dst, blocks = write_prps(memory, bytes(length))
    xts = xts_sqe(
        attr=attr(Cipher.XTS, sgl=False), key_id1=XTS_ID_1, key_id2=XTS_ID_2, tweak=TWEAK, src_len=length,
        dst_len=length, src=src, dst=dst,
    )  # fmt: skip
    assert spoilt.run(xts.tobytes()).status == SUCCESS
    assert read_blocks(memory, blocks) == aes_model.xts(XTS_KEY_1, XTS_KEY_2, TWEAK, 0, data, decrypt=False)
    src, _ = write_prps(memory, data)
    dst, blocks = write_prps(memory, bytes(length))
    gcm = gcm_sqe(
        attr=attr(Cipher.GCM, sgl=False), key_id=GCM_ID, iv=IV, src_len=length, dst_len=length, src=src, dst=dst
    )
    completion = spoilt.run(gcm.tobytes())
    expected = aes_model.gcm(GCM_KEY, IV, b"", 0, data, decrypt=False)
    assert (completion.status, read_blocks(memory, blocks), completion.tag) == (SUCCESS, *expected)


def test_a_ring_that_goes_round_with_batches(spoilt: AesRig) -> None:
    """Entries that are fetched several at a time; their places are used again."""
    queue = spoilt.queues[256]
    for batch in range(12):
        jobs = [gcm_job(spoilt.memory, GCM_ID, IV, text_of(16 * number + batch)) for number in range(1, 14)]
        for number, job in enumerate(jobs):
            job.sqe["cmd_id"] = number
        queue.submit([job.sqe.tobytes() for job in jobs])
        for number, completion in enumerate(queue.reap(len(jobs))):
            assert (completion.cmd_id, completion.status) == (number, SUCCESS)
            expected = aes_model.gcm(GCM_KEY, IV, b"", 0, text_of(16 * (number + 1) + batch), decrypt=False)
            assert (jobs[number].output(spoilt.memory), completion.tag) == expected
        spoilt.memory.free_all()


@PAGE
def test_a_whole_device_passes_its_checks(seams: Seams, socket_folder: Path, page: bool) -> None:
    """A real client's admin and HSM commands, express commands among them, and its AES commands."""
    with HsmDevice(DeviceOptions()) as device:
        server = Server([socket_folder / "f.sock"], device.function, doorbell_page=page)
        server.start()
        try:
            seams.spoil_reads()
            command = [sys.executable, "-m", "ihsm", "selftest", "--device", f"vfio-user:{socket_folder / 'f.sock'}"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            counted = server.functions[0].engine.counters()
        finally:
            server.stop()
    assert counted["hsm_express"] > 0
    assert seams.spoiled() > 0
