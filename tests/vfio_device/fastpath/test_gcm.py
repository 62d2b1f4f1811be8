# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-GCM through the ring, against NIST's vectors and another library (spec 02 C.6, E.4 to E.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.aes_queue import Cipher
from ihsm_device.hsm.keystore import BulkType
from support import aes_model
from support.aes_rig import (
    APPROVED_ID,
    GCM_ID,
    GCM_KEY,
    AesRig,
    Block,
    attr,
    gcm_job,
    gcm_sqe,
    read_blocks,
    scatter,
    write_blocks,
    write_sgl,
)
from support.nist_aes import GCM_GROUPS, gcm_cases

IV = bytes(range(200, 212))
EXAMPLES = settings(max_examples=150)

cuts = st.lists(st.integers(1, 5000), max_size=6)
skews = st.lists(st.integers(0, 4095), min_size=1, max_size=4)
lengths = st.one_of(st.integers(0, 80), st.integers(0, 1200), st.integers(1000, 6000))


@pytest.mark.parametrize("group", GCM_GROUPS)
def test_nist_vectors(make_rig: Callable[..., AesRig], group: str) -> None:
    rig = make_rig()
    ran = failed = 0
    for key_id, case in enumerate(gcm_cases(group)):
        rig.memory.free_all()
        rig.add_key(key_id, case.key, BulkType.GCM_UNAPPROVED)
        job = gcm_job(rig.memory, key_id, case.iv, case.text, case.aad, decrypt=case.decrypt, tag=case.tag)
        completion = rig.run(job.sqe.tobytes())
        ran += 1
        if case.result is None:
            failed += 1
            assert completion.status in ((3, 9), (2, 0x2A)), case
            assert completion.tag != case.tag
        else:
            assert completion.status == (0, 0), case
            assert job.output(rig.memory) == case.result
            assert completion.tag == case.tag
    assert ran == 375
    assert (failed > 0) == case.decrypt


@EXAMPLES
@given(
    aad=st.binary(max_size=100), length=lengths, seed=st.integers(1, 255), src_cuts=cuts, dst_cuts=cuts, skews=skews,
    in_place=st.booleans(), per_segment=st.sampled_from([1, 2, 3, 255]), key_id=st.sampled_from([GCM_ID, APPROVED_ID]),
)  # fmt: skip
def test_round_trip_of_any_layout(rig: AesRig, aad: bytes, length: int, seed: int, key_id: int, **layout: Any) -> None:
    """Any AAD and text length, any split of source and destination, any place in a page."""
    rig.memory.free_all()
    plaintext = bytes((i * seed) & 0xFF for i in range(length))
    expected, tag = aes_model.gcm(GCM_KEY, IV, aad, len(aad), plaintext, decrypt=False)

    job = gcm_job(rig.memory, key_id, IV, plaintext, aad, **layout)
    sealed = rig.run(job.sqe.tobytes())
    assert (sealed.status, sealed.tag, sealed.iv) == ((0, 0), tag, IV)
    assert (sealed.len, sealed.tail_dst_len) == (job.sqe["src_len"][0], length % 16)
    assert job.output(rig.memory) == expected

    job = gcm_job(rig.memory, key_id, IV, expected, aad, decrypt=True, tag=tag, **layout)
    opened = rig.run(job.sqe.tobytes())
    assert (opened.status, opened.tag) == ((0, 0), tag)
    assert job.output(rig.memory) == plaintext

    wrong = bytes([tag[0] ^ 0x80]) + tag[1:]
    job = gcm_job(rig.memory, key_id, IV, expected, aad, decrypt=True, tag=wrong, **layout)
    refused = rig.run(job.sqe.tobytes())
    plain_engine = len(aad) % 32 == 0 and length % 16 == 0
    assert refused.status == ((3, 9) if plain_engine else (2, 0x2A))
    assert (refused.tag, refused.len, refused.tail_dst_len) == (tag, job.sqe["src_len"][0], length % 16)
    assert job.output(rig.memory) == plaintext


@EXAMPLES
@given(
    region=st.integers(0, 4).map(lambda blocks: 32 * blocks), aad_len=st.integers(0, 200), blocks=st.integers(0, 90),
    tail=st.integers(0, 15), decrypt=st.booleans(), data=st.data(),
)  # fmt: skip
def test_region_is_hashed_literally(
    rig: AesRig, region: int, aad_len: int, blocks: int, tail: int, decrypt: bool, data: st.DataObject
) -> None:
    """Whatever lies in the AAD region and whatever its length is said to be, the tag follows E.5."""
    rig.memory.free_all()
    size = region + 16 * blocks
    content = data.draw(st.binary(min_size=size + tail, max_size=size + tail))
    if size == 0 and (tail and aad_len):
        aad_len = 0
    expected, tag = aes_model.gcm(
        GCM_KEY, IV, content[:region], aad_len if size else 0, content[region:], decrypt=decrypt
    )
    src = scatter(rig.memory, size, [])
    write_blocks(rig.memory, src, content)
    dst = scatter(rig.memory, size, [])
    at = rig.memory.allocate(16)
    rig.memory.write(at, content[size:])
    sqe = gcm_sqe(
        attr=attr(Cipher.GCM, decrypt=decrypt), key_id=GCM_ID, iv=IV, tag=tag,
        actual_aad_len=aad_len, aligned_aad_len=region, src_len=size, dst_len=size,
        src=write_sgl(rig.memory, src), dst=write_sgl(rig.memory, dst),
        tail_src_len=tail, tail_dst_len=tail, tail_src_addr=at if tail else 0, tail_dst_addr=at if tail else 0,
    )  # fmt: skip
    completion = rig.run(sqe.tobytes())
    assert (completion.status, completion.tag, completion.len) == ((0, 0), tag, size)
    assert read_blocks(rig.memory, dst)[region:] + rig.memory.read(at, tail) == expected


def test_device_draws_iv_for_approved_encryption(make_rig: Callable[..., AesRig]) -> None:
    """The exact-firmware profile: a new IV for each command, also for one that a later check refuses."""
    rig = make_rig(device_iv=True)
    rig.add_key(APPROVED_ID, GCM_KEY, BulkType.GCM_APPROVED)
    rig.add_key(GCM_ID, GCM_KEY, BulkType.GCM_UNAPPROVED)
    seen = {IV}
    for _ in range(3):
        job = gcm_job(rig.memory, APPROVED_ID, IV, b"text", b"aad")
        sealed = rig.run(job.sqe.tobytes())
        assert sealed.status == (0, 0)
        seen.add(sealed.iv)
        assert (job.output(rig.memory), sealed.tag) == aes_model.gcm(
            GCM_KEY, sealed.iv, b"aad", 3, b"text", decrypt=False
        )
        ciphertext = job.output(rig.memory)
        job = gcm_job(rig.memory, APPROVED_ID, sealed.iv, ciphertext, b"aad", decrypt=True, tag=sealed.tag)
        assert rig.run(job.sqe.tobytes()).status == (0, 0)
        assert job.output(rig.memory) == b"text"
    refused = gcm_job(rig.memory, APPROVED_ID, IV, b"text").sqe
    refused["short_app_id"] = 1
    completion = rig.run(refused.tobytes())
    assert completion.status == (2, 4)
    seen.add(completion.iv)
    assert len(seen) == 5
    assert rig.run(gcm_job(rig.memory, GCM_ID, IV, b"text").sqe.tobytes()).iv == IV


@pytest.mark.parametrize("fips", [False, True])
def test_service_indicator(make_rig: Callable[..., AesRig], fips: bool) -> None:
    """It depends on the type of the key alone, for success and error alike (spec 02 E.3)."""
    rig = make_rig(fips=fips)
    rig.add_key(APPROVED_ID, GCM_KEY, BulkType.GCM_APPROVED)
    rig.add_key(GCM_ID, GCM_KEY, BulkType.GCM_UNAPPROVED)
    for key_id, expected in ((APPROVED_ID, fips), (GCM_ID, False), (0x77, fips), (0x12345, fips)):
        job = gcm_job(rig.memory, key_id, IV, bytes(32))
        assert rig.run(job.sqe.tobytes()).fips_approved == expected
        job.sqe["short_app_id"] = 9
        assert rig.run(job.sqe.tobytes()).fips_approved == expected


def test_long_text_in_pages(rig: AesRig) -> None:
    """Several checkpoints; one block per page as the driver maps them; source and destination split differently."""
    rig.memory.free_all()
    text = bytes(range(256)) * 2816
    src: list[Block] = scatter(rig.memory, len(text), range(4096, len(text), 4096))
    dst: list[Block] = scatter(rig.memory, len(text), range(100, len(text), 4096), skews=[3996, 0])
    write_blocks(rig.memory, src, text)
    sqe = gcm_sqe(
        key_id=GCM_ID, iv=IV, src_len=len(text), dst_len=len(text), src=write_sgl(rig.memory, src),
        dst=write_sgl(rig.memory, dst),
    )  # fmt: skip
    completion = rig.run(sqe.tobytes())
    expected, tag = aes_model.gcm(GCM_KEY, IV, b"", 0, text, decrypt=False)
    assert (completion.status, completion.tag, completion.len) == ((0, 0), tag, len(text))
    assert read_blocks(rig.memory, dst) == expected
