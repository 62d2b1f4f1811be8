# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest that rewrites lists, AAD, text and tails while its commands run spoils its own results only."""

from __future__ import annotations

import itertools
import multiprocessing
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import numpy as np
import pytest

from ihsm_abi.aes_queue import Cipher, SglType
from ihsm_abi.pci import PAGE_BYTES
from support import aes_model
from support.aes_rig import (
    GCM_ID,
    GCM_KEY,
    XTS_ID_1,
    XTS_ID_2,
    AesRig,
    attr,
    descriptor,
    gcm_job,
    gcm_sqe,
    xts_sqe,
)  # fmt: skip
from support.waiting import HANG_S, until

ROUNDS = 400
"""Rounds of the attacker's and the victim's commands at least; and on until the attack has reached enough."""
STATUSES = 4
"""Statuses that the attack must reach: lists that are good, and bad ones of several kinds."""
IV = bytes(12)
CANARY = b"\xc5"
ALLOWED = {(0, 0), (4, 2), (4, 4), (4, 5), (4, 6), (4, 0xA), (4, 0xB), (9, 0)}


class Attack:
    """Shared pages: two segments, data pages that their descriptors may name, and pages that nothing names."""

    def __init__(self, rig: AesRig) -> None:
        self.rig = rig
        self.segments = [rig.memory.allocate(PAGE_BYTES) for _ in range(2)]
        self.data = [rig.memory.allocate(8 * PAGE_BYTES) for _ in range(2)]
        self.canaries = [rig.memory.allocate(4 * PAGE_BYTES) for _ in range(2)]
        for canary in self.canaries:
            rig.memory.write(canary, CANARY * 4 * PAGE_BYTES)

    def segment(self, rng: random.Random) -> bytes:
        """A list of 32 KiB, or something near it."""
        parts = rng.choice([[32768], [16384, 16384], [100, 32668], [4096] * 8, [32768, 16], [1, 32766], [16] * 200])
        target = rng.choice([*self.data, self.segments[0], 0, 0xDEAD_0000_0000, 2**64 - 8])
        kind = rng.choice([0, 0, 0, 0, 0, SglType.LAST_SEGMENT, 7])
        body, at = b"", target
        for part in parts:
            body += descriptor(at & (2**64 - 1), part, kind if part == parts[-1] else 0)
            at += part
        return body

    def rewrite(self, stop: Event) -> None:
        """Runs in a process of its own, on the same memory, as a guest's other CPU."""
        rng = random.Random(7)
        lists = [self.segment(rng) for _ in range(64)]
        views = [self.rig.memory.view(segment, PAGE_BYTES) for segment in self.segments]
        data = [np.frombuffer(self.rig.memory.view(page, 8 * PAGE_BYTES), np.uint8) for page in self.data]
        while not stop.is_set():
            for _ in range(200):
                body = rng.choice(lists)
                rng.choice(views)[: len(body)] = body
                chosen = rng.choice(data)
                chosen[rng.randrange(len(chosen))] ^= 0xFF
                chosen[: rng.randrange(1, 2000)] += 1

    def entries(self) -> list[bytes]:
        """GCM with AAD and a tail, XTS with many data units; source and destination in the pages under attack."""
        lists = {
            "src": descriptor(self.segments[0], 16 * 8, SglType.LAST_SEGMENT),
            "dst": descriptor(self.segments[1], 16 * 8, SglType.LAST_SEGMENT),
            "src_len": 32768,
            "dst_len": 32768,
        }
        tail = self.data[0] + 77
        return [
            gcm_sqe(
                attr=attr(Cipher.GCM, decrypt=decrypt), key_id=GCM_ID, iv=IV, aligned_aad_len=4096, actual_aad_len=4090,
                tail_src_len=15, tail_dst_len=15, tail_src_addr=tail, tail_dst_addr=tail, **lists,
            ).tobytes()
            for decrypt in (False, True)
        ] + [
            xts_sqe(attr=attr(Cipher.XTS, dul=dul), key_id1=XTS_ID_1, key_id2=XTS_ID_2, **lists).tobytes()
            for dul in (0, 1)
        ]  # fmt: skip


@contextmanager
def under_attack(attack: Attack) -> Iterator[None]:
    """The second process rewrites while the body runs."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=attack.rewrite, args=(stop,), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(HANG_S)
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_rewriting_guest_spoils_its_own_results_only(make_rig: Callable[..., AesRig]) -> None:
    rig = make_rig(queues=2)
    rig.add_standard_keys()
    attack = Attack(rig)
    attacker, victim = rig.queues.values()
    text = bytes(range(256)) * 16
    expected = aes_model.gcm(GCM_KEY, IV, b"own data", 8, text, decrypt=False)
    job = gcm_job(rig.memory, GCM_ID, IV, text, b"own data")
    entries = attack.entries()
    seen: dict[tuple[int, int], int] = {}
    with under_attack(attack):
        rounds = itertools.count()

        def go_on() -> bool:
            attacker.submit(entries)
            victim.submit([job.sqe.tobytes()])
            for completion in attacker.reap(len(entries)):
                seen[completion.status] = seen.get(completion.status, 0) + 1
            [own] = victim.reap(1)
            assert (own.status, own.tag) == ((0, 0), expected[1])
            assert job.output(rig.memory) == expected[0]
            return next(rounds) >= ROUNDS and len(seen) >= STATUSES

        until(go_on, "an attack that reaches enough", every_s=0)
    assert set(seen) <= ALLOWED | {(2, 0x2A)}, seen
    for canary in attack.canaries:
        assert rig.memory.read(canary, 4 * PAGE_BYTES) == CANARY * 4 * PAGE_BYTES


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_aad_is_read_once(make_rig: Callable[..., AesRig]) -> None:
    """The AAD that was hashed is the AAD that reaches the destination, whatever the guest writes meanwhile."""
    rig = make_rig()
    rig.add_standard_keys()
    region = 4096
    src, dst = rig.memory.allocate(region), rig.memory.allocate(region)
    sqe = gcm_sqe(
        key_id=GCM_ID, iv=IV, src_len=region, dst_len=region, aligned_aad_len=region, actual_aad_len=region,
        src=descriptor(src, region), dst=descriptor(dst, region),
    ).tobytes()  # fmt: skip

    def scribble(stop: Event) -> None:
        view = np.frombuffer(rig.memory.view(src, region), np.uint8)
        while not stop.is_set():
            for value in range(256):
                view[:] = value

    context = multiprocessing.get_context("fork")
    stop = context.Event()
    process = context.Process(target=scribble, args=(stop,), daemon=True)
    process.start()
    try:
        for _ in range(2000):
            completion = rig.run(sqe)
            hashed = rig.memory.read(dst, region)
            assert completion.tag == aes_model.gcm(GCM_KEY, IV, hashed, region, b"", decrypt=False)[1]
    finally:
        stop.set()
        process.join(HANG_S)
