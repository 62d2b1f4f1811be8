# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-XTS through the ring, against NIST's vectors and another library (spec 02 C.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device.hsm.keystore import BulkType
from support import aes_model
from support.aes_rig import XTS_ID_1, XTS_ID_2, XTS_KEY_1, XTS_KEY_2, AesRig, read_blocks, xts_job
from support.nist_aes import XTS_GROUPS, xts_cases

PAIR = (XTS_ID_1, XTS_ID_2)
tweaks = st.one_of(
    st.binary(min_size=16, max_size=16),
    st.integers(1, 3).map(lambda n: ((1 << 128) - n).to_bytes(16, "little")),
    st.integers(1, 3).map(lambda n: ((1 << 64) - n).to_bytes(16, "little")),
)


@pytest.mark.parametrize("group", XTS_GROUPS)
def test_nist_vectors(make_rig: Callable[..., AesRig], group: str) -> None:
    rig = make_rig()
    ran = decrypted = 0
    for number, case in enumerate(xts_cases(group)):
        rig.memory.free_all()
        pair = (2 * number + 1, 2 * number + 2)
        for key_id, key in zip(pair, case.keys, strict=True):
            rig.add_key(key_id, key, BulkType.XTS)
        sqe, dst = xts_job(rig.memory, pair, case.tweak, case.text, decrypt=case.decrypt)
        completion = rig.run(sqe.tobytes())
        assert (completion.status, completion.len) == ((0, 0), len(case.text)), case
        assert read_blocks(rig.memory, dst) == case.result
        ran += 1
        decrypted += case.decrypt
    assert (ran, decrypted) == (600, 300)


@settings(max_examples=200)
@given(
    blocks=st.one_of(st.integers(0, 70), st.integers(60, 1100)), dul=st.integers(0, 3),
    tweak=tweaks,
    decrypt=st.booleans(), src_cuts=st.lists(st.integers(1, 17000), max_size=8),
    dst_cuts=st.lists(st.integers(1, 17000), max_size=8), skews=st.lists(st.integers(0, 4095), min_size=1, max_size=4),
    in_place=st.booleans(), per_segment=st.sampled_from([1, 2, 255]),
)  # fmt: skip
def test_any_layout(rig: AesRig, blocks: int, dul: int, tweak: bytes, decrypt: bool, **layout: Any) -> None:
    """Any number of blocks and data units, lists split anywhere, tweaks that carry over all 128 bits."""
    rig.memory.free_all()
    data = bytes((7 * i + (i >> 8)) & 0xFF for i in range(16 * blocks))
    sqe, dst = xts_job(rig.memory, PAIR, tweak, data, decrypt=decrypt, dul=dul, **layout)
    completion = rig.run(sqe.tobytes())
    assert (completion.status, completion.len) == ((0, 0), len(data))
    assert (completion.tag, completion.iv, completion.tail_dst_len) == (bytes(16), bytes(12), 0)
    assert read_blocks(rig.memory, dst) == aes_model.xts(XTS_KEY_1, XTS_KEY_2, tweak, dul, data, decrypt=decrypt)


@pytest.mark.parametrize("dul", [0, 1, 2, 3])
def test_longest_unit_in_pages(make_rig: Callable[..., AesRig], dul: int) -> None:
    """A mebibyte in 4 KiB blocks, as the driver maps a user's buffer, and the tweak kept over hundreds of pieces."""
    rig = make_rig(1 << 23)
    rig.add_key(1, XTS_KEY_1, BulkType.XTS)
    rig.add_key(2, XTS_KEY_2, BulkType.XTS)
    data = bytes(range(256)) * 4096
    pages = range(4096, len(data), 4096)
    tweak = bytes(range(16))
    sqe, dst = xts_job(rig.memory, (1, 2), tweak, data, dul=dul, src_cuts=pages, dst_cuts=range(1000, len(data), 4096))
    assert rig.run(sqe.tobytes()).status == (0, 0)
    assert read_blocks(rig.memory, dst) == aes_model.xts(XTS_KEY_1, XTS_KEY_2, tweak, dul, data, decrypt=False)


@pytest.mark.parametrize("fips", [False, True])
def test_service_indicator(make_rig: Callable[..., AesRig], fips: bool) -> None:
    """The FIPS state for an XTS or unknown first key, 0 for an unapproved GCM key (spec 02 E.3)."""
    rig = make_rig(fips=fips)
    rig.add_key(1, XTS_KEY_1, BulkType.XTS)
    rig.add_key(2, XTS_KEY_2, BulkType.XTS)
    rig.add_key(3, XTS_KEY_1, BulkType.GCM_UNAPPROVED)
    rig.add_key(4, XTS_KEY_1, BulkType.GCM_APPROVED)
    for pair, expected in (((1, 2), fips), ((9, 2), fips), ((3, 2), False), ((4, 2), fips), ((1, 3), fips)):
        sqe, _ = xts_job(rig.memory, pair, bytes(16), bytes(32))
        assert rig.run(sqe.tobytes()).fips_approved == expected


def test_keys_of_the_same_bytes_are_refused_whatever_was_held_before(make_rig: Callable[..., AesRig]) -> None:
    """Commands of one row, whose keys stay held: each pair is compared, by whichever of its keys it differs."""
    rig = make_rig()
    for number, key in enumerate((XTS_KEY_1, XTS_KEY_2, XTS_KEY_1, XTS_KEY_2), start=1):
        rig.add_key(number, key, BulkType.XTS)
    pairs = [(1, 2), (1, 3), (1, 4), (2, 4), (3, 4), (3, 1), (3, 2)]
    jobs = [xts_job(rig.memory, pair, bytes(16), bytes(2048)) for pair in pairs]
    queue = rig.queues[FIRST_AES_QUEUE_ID]
    queue.submit([sqe.tobytes() for sqe, _ in jobs])
    refused = [completion.status[0] != 0 for completion in queue.reap(len(jobs))]
    assert refused == [False, True, False, True, False, True, False]
