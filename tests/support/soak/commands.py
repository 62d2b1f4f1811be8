# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attacks by a guest or a driver: hostile rings, lists and memory, storms of commands, clients that are killed."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import random
import struct
from multiprocessing.context import ForkProcess
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bus import VfioUserFunction
from ihsm.ddi import KeyRequest
from ihsm.errors import IhsmError
from ihsm_abi.aes_queue import GCM_SQE
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyUsage
from ihsm_abi.pci import MSIX_VECTORS, PAGE_BYTES, Bar
from support.killed import LONGEST_PAUSE_S, STEPS, kill_one
from support.polled import PolledDriver
from support.soak.messages import memory
from support.soak.victim import Client
from support.waiting import HANG_S

BLOCK: Final = np.dtype([("address", "<u8"), ("length", "<u4"), ("reserved", "V3"), ("type", "u1")])
"""Descriptor of a scatter-gather list."""
SEGMENT: Final = 0x20
LAST_SEGMENT: Final = 0x30
LISTS_IOVA: Final = 0x70_0000_0000
GCM_SGL: Final = 1 << 2 | 5 << 3
"""Attributes: lists, and the cipher."""


def gcm_entry(client: Client, length: int, **sides: tuple[int, int, int]) -> NDArray[np.void]:
    """An AES-GCM entry; of each side address, length and type of its descriptor."""
    entry = np.zeros(1, GCM_SQE)
    entry["attr"], entry["frame_type"] = GCM_SGL, 1
    entry["session_id"], entry["key_id"] = client.fast.session_id, client.bulk.bulk_key_id
    entry["src_len"] = entry["dst_len"] = length
    for side, (address, size, kind) in sides.items():
        entry[side]["addr"], entry[side]["len"], entry[side]["type"] = address, size, kind
    return entry


def full_eventfds(path: str, rng: random.Random) -> None:
    """Interrupts to descriptors whose counters are full, and to which a write would wait."""
    event = os.eventfd(0, 0)
    os.eventfd_write(event, 2**64 - 2)
    try:
        with VfioUserFunction(path, timeout_s=HANG_S) as function:
            function.enable_interrupts([event] * MSIX_VECTORS)
            driver = PolledDriver(function)
            driver.enable()
            driver.create_pair(1, vector=1)
            for _ in range(20):
                driver.run_hsm(b"no message")
    finally:
        os.close(event)


def lists_without_end(path: str, rng: random.Random) -> None:
    """A segment of empty blocks that leads to itself, for 16 bytes, many at once."""
    with Client(path, aes_entries=64, buffer_bytes=1 << 20) as client:
        page = client.controller.allocate(PAGE_BYTES, PAGE_BYTES)
        blocks = np.zeros(PAGE_BYTES // BLOCK.itemsize, BLOCK)
        blocks["address"] = page.iova
        blocks["length"][-1], blocks["type"][-1] = PAGE_BYTES, SEGMENT
        page.view[:] = np.frombuffer(blocks.tobytes(), np.uint8)
        side = (page.iova, PAGE_BYTES, SEGMENT)
        entries = np.repeat(gcm_entry(client, 16, src=side, dst=side), 8)
        for queue in client.controller.aes_queues:
            queue.submit(entries, HANG_S).result()


def a_key_deleted_while_it_works(path: str, rng: random.Random) -> None:
    """A long AES command over one page, named again and again; its key is deleted meanwhile and another made."""
    pieces = 1 << 15
    with Client(path) as client, memory(-(-pieces // 255) * PAGE_BYTES) as fd:
        base, segments = LISTS_IOVA, -(-pieces // 255)
        page = client.controller.allocate(PAGE_BYTES, PAGE_BYTES)
        with mmap.mmap(fd, segments * PAGE_BYTES) as shared:
            blocks = np.zeros((segments, 256), BLOCK)
            blocks["address"], blocks["length"] = page.iova, PAGE_BYTES
            for number in range(segments - 1):
                last = number + 2 == segments
                left = pieces - 255 * (number + 1)
                blocks["address"][number, 255] = base + (number + 1) * PAGE_BYTES
                blocks["length"][number, 255] = (left if last else 256) * BLOCK.itemsize
                blocks["type"][number, 255] = LAST_SEGMENT if last else SEGMENT
            shared[:] = blocks.tobytes()
            _function(client).map_dma(fd, 0, base, segments * PAGE_BYTES)
            side = (base, PAGE_BYTES, SEGMENT)
            for _ in range(3):
                entry = gcm_entry(client, pieces * PAGE_BYTES, src=side, dst=side)
                submission = client.controller.aes_queues[0].submit(entry, HANG_S)
                client.session.delete_key(client.bulk)
                client.bulk = client.new_bulk_key()
                submission.result()


def sparse_memory_that_one_command_fills(path: str, rng: random.Random) -> None:
    """The destination is a file without pages; whoever writes them is charged with them."""
    size = 32 << 20
    with Client(path, buffer_bytes=1 << 20) as client, memory(size) as fd:
        _function(client).map_dma(fd, 0, LISTS_IOVA, size)
        entry = gcm_entry(client, size, src=(LISTS_IOVA, size, 0), dst=(LISTS_IOVA, size, 0))
        client.controller.aes_queues[0].submit(entry, HANG_S).result()


def rings_rewritten_by_another_cpu(path: str, rng: random.Random) -> None:
    """One process scribbles over rings and lists, another rings, maps, unmaps, cuts and resets."""
    with VfioUserFunction(path, timeout_s=HANG_S) as function, memory(1 << 16) as fd:
        driver = PolledDriver(function)
        driver.enable()
        for queue in (1, 256):
            driver.create_pair(queue)
        views = [part for ring in driver.rings.values() for part in (ring.sq_memory.view, ring.cq_memory.view)]
        views.append(driver.page.view)
        context = multiprocessing.get_context("fork")
        scribbler = context.Process(target=_scribble, args=(views, driver.page.iova, rng.random()), daemon=True)
        scribbler.start()
        try:
            with contextlib.suppress(IhsmError):
                _ring_anything(function, fd, rng)
        finally:
            _end(scribbler)
        function.reset()


def _scribble(views: list[NDArray[np.uint8]], address: int, seed: float) -> None:
    rng = random.Random(seed)
    while True:
        view = rng.choice(views)
        at = rng.randrange(len(view) - 64)
        if rng.random() < 0.3:
            view[at : at + 8] = np.frombuffer(struct.pack("<Q", rng.choice([address, 0, 2**64 - 8, at])), np.uint8)
        else:
            view[at : at + rng.randrange(1, 64)] ^= np.uint8(rng.getrandbits(8))


def _ring_anything(function: VfioUserFunction, fd: int, rng: random.Random) -> None:
    for _ in range(2000):
        function.write_bar(
            Bar.DOORBELLS, 4 * rng.choice([0, 1, 2, 3, 512, 513, rng.randrange(1024)]), 4, rng.randrange(16)
        )
        if rng.random() < 0.02:
            function.map_dma(fd, 0, LISTS_IOVA, 1 << 16)
            os.ftruncate(fd, rng.choice([0, PAGE_BYTES, 1 << 16]))
            function.unmap_dma(LISTS_IOVA, 1 << 16)


def clients_that_are_killed(path: str, rng: random.Random) -> None:
    """At any point of bring-up and of commands."""
    context = multiprocessing.get_context("forkserver")
    for _ in range(3):
        kill_one(context, path, rng.randrange(1, STEPS), rng.random() * LONGEST_PAUSE_S)


def provisioned_again_and_again(path: str, rng: random.Random) -> None:
    """Sessions and keys that end with their clients, some of which reset the subsystem before."""
    for _ in range(3):
        with Client(path) as client:
            if rng.random() < 0.5:
                client.controller.reset(subsystem=True)


def queues_made_anew(path: str, rng: random.Random) -> None:
    """Deleted and created while others work."""
    with Client(path) as client:
        queues = [*client.controller.aes_queues, *client.controller.hsm_queues]
        for _ in range(50):
            client.controller.recover_queue(rng.choice(queues))


def expensive_commands(path: str, rng: random.Random) -> None:
    """P-521 signatures, as many at once as there is room for."""
    with Client(path) as client:
        request = KeyRequest(KeyUsage.SignVerify, session=True)
        key = client.session.generate_ecc_key(EccCurve.P521, request)
        client.session.ecc_sign_many(key, np.ones((100, 64), np.uint8), HashAlgorithm.Sha512)


def own_doorbells_as_memory(path: str, rng: random.Random) -> None:
    """The page of doorbells as memory, where there is one, and the device's own kick for interrupts."""
    with VfioUserFunction(path, timeout_s=HANG_S) as function:
        kick = function.write_event(Bar.DOORBELLS)
        page: Any = function._region_fds.get(Bar.DOORBELLS) if function.map_bar(Bar.DOORBELLS) else None
        if kick is not None:
            os.set_blocking(kick, True)
            os.eventfd_write(kick, 1)
            with contextlib.suppress(IhsmError):
                function.enable_interrupts([kick] * MSIX_VECTORS)
        if page is not None:
            with contextlib.suppress(IhsmError):
                function.map_dma(page, 0, LISTS_IOVA, PAGE_BYTES)


def _function(client: Client) -> VfioUserFunction:
    function = client.controller.function
    assert isinstance(function, VfioUserFunction)
    return function


def _end(process: ForkProcess) -> None:
    process.kill()
    process.join()
    process.close()
