# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Walking SGLs and PRPs: long chains, endless ones, memory in pieces, and anything a guest may write (spec 02 C.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.aes_queue import AES_CQE, GCM_SQE, XTS_SQE, Cipher, SglType
from ihsm_abi.pci import PAGE_BYTES
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
    descriptor,
    gcm_job,
    gcm_sqe,
    prp,
    read_blocks,
    write_prps,
    xts_job,
    xts_sqe,
)
from support.guest_memory import GuestMemory

IV = bytes(12)
UNMAPPED = 0xDEAD_0000_0000
FUZZ = settings(max_examples=300)


@pytest.mark.parametrize("per_segment", [1, 7, 255])
def test_long_chain(rig: AesRig, per_segment: int) -> None:
    """Six hundred blocks of sixteen bytes, over up to as many segments."""
    rig.memory.free_all()
    data = bytes(range(256)) * 38
    data = data[: 600 * 16]
    sqe, dst = xts_job(
        rig.memory, (XTS_ID_1, XTS_ID_2), bytes(16), data, src_cuts=range(16, len(data), 16), per_segment=per_segment
    )
    assert rig.run(sqe.tobytes()).status == (0, 0)
    assert read_blocks(rig.memory, dst) == aes_model.xts(XTS_KEY_1, XTS_KEY_2, bytes(16), 0, data, decrypt=False)


def test_block_in_the_queue_entry(rig: AesRig) -> None:
    """A pointer that is a data block itself needs no segment."""
    rig.memory.free_all()
    src, dst = rig.memory.allocate(64, skew=5), rig.memory.allocate(64, skew=4090)
    rig.memory.write(src, bytes(range(64)))
    sqe = gcm_sqe(key_id=GCM_ID, src_len=64, dst_len=64, src=descriptor(src, 64), dst=descriptor(dst, 64))
    completion = rig.run(sqe.tobytes())
    expected = aes_model.gcm(GCM_KEY, IV, b"", 0, bytes(range(64)), decrypt=False)
    assert (completion.status, rig.memory.read(dst, 64), completion.tag) == ((0, 0), *expected)


@pytest.mark.parametrize("blocks", [0, 1, 255])
def test_endless_chain_ends(rig: AesRig, blocks: int) -> None:
    """A segment that leads to itself: refused, with empty blocks too, and the queue goes on."""
    rig.memory.free_all()
    for length in (0, 16):
        segment, data = rig.memory.allocate(PAGE_BYTES), rig.memory.allocate(16)
        link = descriptor(segment, 16 * (blocks + 1), SglType.SEGMENT)
        rig.memory.write(segment, descriptor(data, length) * blocks + link)
        sqe = gcm_sqe(key_id=GCM_ID, src_len=1 << 16, dst_len=1 << 16, src=link, dst=link)
        expected = (4, 0xB) if blocks and length else (4, 6) if blocks else (9, 0)
        assert rig.run(sqe.tobytes()).status == expected
    assert rig.run(gcm_job(rig.memory, GCM_ID, IV, bytes(64)).sqe.tobytes()).status == (0, 0)


def test_two_segments_that_lead_to_each_other(rig: AesRig) -> None:
    rig.memory.free_all()
    first, second = rig.memory.allocate(PAGE_BYTES), rig.memory.allocate(PAGE_BYTES)
    rig.memory.write(first, descriptor(second, 16, SglType.SEGMENT))
    rig.memory.write(second, descriptor(first, 16, SglType.SEGMENT))
    link = descriptor(first, 16, SglType.SEGMENT)
    assert rig.run(xts(rig, 64, link, link)).status == (9, 0)


def xts(rig: AesRig, length: int, src: bytes, dst: bytes, *, sgl: bool = True) -> bytes:
    """An XTS entry over given data pointers."""
    return xts_sqe(
        attr=attr(Cipher.XTS, sgl=sgl), key_id1=XTS_ID_1, key_id2=XTS_ID_2, src_len=length, dst_len=length, src=src,
        dst=dst,
    ).tobytes()  # fmt: skip


def test_block_over_a_region_boundary(make_rig: Callable[..., AesRig]) -> None:
    """One block in two mappings, the boundary inside an AES block; and a segment's descriptors likewise."""
    rig = make_rig(1 << 20, region_ends=[0x3000, 0x80000])
    rig.add_standard_keys()
    data = bytes(range(256)) * 16
    src, dst = rig.memory.base + 0x3000 - 1000 - 7, rig.memory.base + 0x80000 - 2000 - 3
    rig.memory.write(src, data)
    assert rig.run(xts(rig, len(data), descriptor(src, len(data)), descriptor(dst, len(data)))).status == (0, 0)
    expected = aes_model.xts(XTS_KEY_1, XTS_KEY_2, bytes(16), 0, data, decrypt=False)
    assert rig.memory.read(dst, len(data)) == expected


def test_read_only_memory(make_rig: Callable[..., AesRig]) -> None:
    """It can be a source, not a destination; a tail neither."""
    rig = make_rig()
    rig.add_standard_keys()
    rom = bytearray(PAGE_BYTES)
    rig.host.map(0x9_0000_0000, rom, writable=False)
    writable = rig.memory.allocate(64)
    read_only = descriptor(0x9_0000_0000, 64)
    assert rig.run(xts(rig, 64, read_only, descriptor(writable, 64))).status == (0, 0)
    assert rig.run(xts(rig, 64, descriptor(writable, 64), read_only)).status == (9, 0)
    job = gcm_job(rig.memory, GCM_ID, IV, b"tail")
    job.sqe["tail_dst_addr"] = 0x9_0000_0000
    assert rig.run(job.sqe.tobytes()).status == (2, 0x27)
    assert bytes(rom) == bytes(PAGE_BYTES)


def test_tail_over_a_region_boundary(make_rig: Callable[..., AesRig]) -> None:
    """And one whose second half is not mapped at all, which leaves memory as it was."""
    rig = make_rig(0x4000, region_ends=[0x1000])
    rig.add_standard_keys()
    at = rig.memory.base + 0x1000 - 3
    rig.memory.write(at, b"tail")
    sqe = gcm_sqe(
        key_id=GCM_ID, tail_src_len=4, tail_dst_len=4, tail_src_addr=at, tail_dst_addr=at
    )  # fmt: skip
    completion = rig.run(sqe.tobytes())
    assert completion.status == (0, 0)
    assert rig.memory.read(at, 4) == aes_model.gcm(GCM_KEY, IV, b"", 0, b"tail", decrypt=False)[0]
    end = rig.memory.base + 0x4000 - 3
    sqe["tail_src_addr"] = end
    assert rig.run(sqe.tobytes()).status == (2, 0x26)


@pytest.mark.parametrize("length", [16, 4096 - 256, 4096 - 256 + 16, 2 * 4096 - 256, 2 * 4096, 5 * 4096, 600 * 4096])
def test_prps(make_rig: Callable[..., AesRig], length: int) -> None:
    """One page, two, a list, and lists that lead to another list."""
    rig = make_rig(1 << 24)
    rig.add_standard_keys()
    data = (bytes(range(251)) * (length // 251 + 1))[:length]

    src, _ = write_prps(rig.memory, data)
    dst, blocks = write_prps(rig.memory, bytes(length))
    assert rig.run(xts(rig, length, src, dst, sgl=False)).status == (0, 0)
    expected = aes_model.xts(XTS_KEY_1, XTS_KEY_2, bytes(16), 0, data, decrypt=False)
    assert read_blocks(rig.memory, blocks) == expected


def test_bad_prps(rig: AesRig) -> None:
    """What is wrong with the source is 4/3, with the destination 4/1; unmapped pages are 9/0."""
    rig.memory.free_all()
    page, second, third, list_page, good_list = (rig.memory.allocate(PAGE_BYTES) for _ in range(5))
    length = 3 * PAGE_BYTES
    rig.memory.write(list_page, np.array([page, page + 1], "<u8").tobytes())
    rig.memory.write(good_list, np.array([second, third], "<u8").tobytes())
    good_two, good_three, bad_entry = prp(page, second), prp(page, good_list), prp(page, list_page)
    loop = rig.memory.allocate(8, skew=PAGE_BYTES - 8)
    rig.memory.write(loop, np.array([loop], "<u8").tobytes())

    def status(size: int, src: bytes, dst: bytes) -> tuple[int, int]:
        return rig.run(xts(rig, size, src, dst, sgl=False)).status

    two = 2 * PAGE_BYTES
    assert status(16, prp(page), prp(second + 2)) == (4, 1)
    assert status(two, good_two, good_two) == (0, 0)
    assert status(two, prp(page + 2, second), good_two) == (4, 3)
    assert status(two, good_two, prp(page, second + 8)) == (4, 1)
    assert status(length, good_three, good_three) == (0, 0)
    assert status(length, bad_entry, good_three) == (4, 3)
    assert status(length, good_three, bad_entry) == (4, 1)
    assert status(length, prp(page, good_list + 4), good_three) == (4, 3)
    assert status(length, prp(page, UNMAPPED), good_three) == (4, 3)
    assert status(length, good_three, prp(page, UNMAPPED)) == (4, 1)
    assert status(two, prp(UNMAPPED, second), good_two) == (9, 0)
    assert status(length, prp(page, loop), good_three) == (9, 0)


LENGTHS = (0, 16, 32, 64, 4096, 4112, 1 << 31, 2**32 - 16)
PAGES, DESCRIPTORS = 4, 6


@FUZZ
@given(
    choices=st.binary(min_size=3 * (PAGES * DESCRIPTORS + 2), max_size=3 * (PAGES * DESCRIPTORS + 2)),
    length=st.sampled_from(LENGTHS), other=st.sampled_from(LENGTHS), region=st.sampled_from([0, 32, 64, 1 << 31]),
    cipher=st.sampled_from(Cipher), sgl=st.booleans(), dul=st.integers(0, 3), same=st.booleans(),
)  # fmt: skip
def test_any_list(
    rig: AesRig, choices: bytes, length: int, other: int, region: int, cipher: Cipher, sgl: bool, dul: int, same: bool
) -> None:
    """Any descriptors, mostly plausible, for both sides: some status, nothing written outside the pages named."""
    memory = rig.memory
    memory.free_all()
    arena = [memory.allocate(PAGE_BYTES) for _ in range(PAGES)]
    canary = memory.allocate(PAGE_BYTES)
    memory.write(canary, b"\xc5" * PAGE_BYTES)
    addresses = [*arena, *(page + 16 for page in arena), arena[0] + PAGE_BYTES - 5, 0, UNMAPPED, 2**64 - 16]
    sizes = (*LENGTHS, 1, 15, 17, 48, 2048)
    kinds = (0, 0, 0, 0, 2, 3, *range(16))
    descriptors = [
        descriptor(addresses[a % len(addresses)], sizes[b % len(sizes)], kinds[c % len(kinds)], c >= 250)
        for a, b, c in zip(choices[::3], choices[1::3], choices[2::3], strict=True)
    ]
    for number, page in enumerate(arena):
        memory.write(page, b"".join(descriptors[number * DESCRIPTORS : (number + 1) * DESCRIPTORS]))
    src, dst = descriptors[-2:]
    fields: dict[str, Any] = {
        "src_len": length, "dst_len": length if same else other, "src": src, "dst": dst,
        "attr": attr(cipher, sgl=sgl, dul=dul),
    }  # fmt: skip
    if cipher == Cipher.GCM:
        sqe = gcm_sqe(key_id=GCM_ID, aligned_aad_len=region, **fields)
    else:
        sqe = xts_sqe(key_id1=XTS_ID_1, key_id2=XTS_ID_2, **fields)
    completion = rig.run(sqe.tobytes())
    assert completion.status[0] in (0, 1, 4, 9)
    assert memory.read(canary, PAGE_BYTES) == b"\xc5" * PAGE_BYTES


@FUZZ
@given(entry=st.binary(min_size=128, max_size=128), cipher=st.sampled_from(Cipher), known=st.booleans())
def test_any_entry(rig: AesRig, entry: bytes, cipher: Cipher, known: bool) -> None:
    """Any 128 bytes get one completion, with attribute word and command id echoed."""
    sqe = np.frombuffer(bytearray(entry), GCM_SQE if cipher == Cipher.GCM else XTS_SQE)
    sqe["attr"] = sqe["attr"] & ~np.uint16(1 << 8) | np.uint16(cipher << 8)
    if known:
        sqe["short_app_id"] = 0
        for name, key_id in (("key_id", GCM_ID), ("key_id1", XTS_ID_1), ("key_id2", XTS_ID_2)):
            if name in (sqe.dtype.names or ()):
                sqe[name] = key_id
    completion = rig.run(sqe.tobytes())
    cqe = np.frombuffer(completion.raw, AES_CQE)[0]
    assert (cqe["attr"], cqe["cmd_id"]) == (sqe["attr"][0], sqe["cmd_id"][0])


def test_guest_memory_has_gaps(make_rig: Callable[..., AesRig]) -> None:
    """The helper's own promise: neighbours in the guest are no neighbours here."""
    rig = make_rig(0x3000, region_ends=[0x1000])
    assert isinstance(rig.memory, GuestMemory)
    rig.memory.write(rig.memory.base + 0xFFF, b"ab")
    assert bytes(rig.memory.view(rig.memory.base + 0x1000, 1)) == b"b"
