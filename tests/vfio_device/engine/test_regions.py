# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Guest memory: many regions, transfers across them, overlaps, the ends of the address space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_device.hosts import MappingError
from support.rig import MEMORY_IOVA, EngineRig, hsm_entry

BASE = 0x4000_0000
SPAN = 4 * 4096


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, SPAN - 1), st.integers(1, 3000), st.booleans()), max_size=40),
    st.lists(st.tuples(st.sampled_from([0, 4096, 8192, 12288]), st.integers(1, 3584)), min_size=1, max_size=20),
)
def test_against_a_model(mappings: list[tuple[int, int, bool]], reads: list[tuple[int, int]]) -> None:
    """Maps of any size and order, every one with its own memory; some removed again; requests read across them."""
    with EngineRig() as rig:
        rig.allocate(4096)
        queue = rig.queue(1).create()
        model = np.full(SPAN + 3000, -1, np.int16)
        mapped: list[tuple[int, int]] = []
        for number, (offset, size, remove) in enumerate(mappings):
            if (model[offset : offset + size] >= 0).any():
                with pytest.raises(MappingError, match="exists already"):
                    rig.host.map(BASE + offset, np.zeros(size, np.uint8))
                continue
            fill = np.full(size, number, np.uint8)
            rig.host.map(BASE + offset, fill)
            model[offset : offset + size] = fill
            mapped.append((offset, size))
            if remove:
                offset, size = mapped.pop(number % len(mapped))
                with pytest.raises(MappingError, match="does not exist"):
                    rig.host.unmap(BASE + offset, size + 1)
                rig.host.unmap(BASE + offset, size)
                model[offset : offset + size] = -1
        for offset, size in reads:
            queue.submit(
                hsm_entry(1, src_len=size, src_prp1=BASE + offset, dst_len=64, dst_prp1=MEMORY_IOVA, command=0)
            )
            command = rig.scheduler.pull(1, 0)
            expected = model[offset : offset + size]
            assert (command is not None) == bool((expected >= 0).all())
            if command is not None:
                assert command.request == expected.astype(np.uint8).tobytes()
                rig.engine.complete_hsm(command, b"")
            queue.wait()


def test_ends_of_the_address_space(rig: EngineRig) -> None:
    low, high = np.zeros(4096, np.uint8), np.full(4096, 9, np.uint8)
    rig.host.map(0, low)
    rig.host.map(2**64 - 4096, high)
    queue = rig.queue(1).create()
    queue.submit(hsm_entry(1, src_len=3584, src_prp1=2**64 - 4096, dst_len=4096, dst_prp1=0))
    command = rig.pull()
    assert command.request == b"\x09" * 3584
    rig.engine.complete_hsm(command, b"\x07" * 3584)
    assert low.tolist() == [7] * 3584 + [0] * 512
    for iova, size in ((2**64 - 100, 101), (2**64 - 1, 2), (0x5000_0000, 0)):
        with pytest.raises(ValueError, match="can exist"):
            rig.host.map_without_pointer(iova, size)


def test_thousands_of_regions(rig: EngineRig) -> None:
    """A guest with a virtual IOMMU maps page by page, in any order."""
    pages = 20_000
    memory = np.arange(pages, dtype=np.uint32).repeat(2).view(np.uint8).reshape(pages, 8)
    order = np.random.default_rng(1).permutation(pages)
    for page in order:
        rig.host.map(BASE + 4096 * int(page), memory[page])
    queue = rig.queue(1).create()
    for page in (0, 1, 777, pages - 1):
        queue.submit(hsm_entry(1, src_len=8, src_prp1=BASE + 4096 * page, dst_len=8, dst_prp1=MEMORY_IOVA))
        command = rig.pull()
        assert command.request == page.to_bytes(4, "little") * 2
        rig.engine.complete_hsm(command, b"")
        queue.wait()
    assert rig.engine.counters()["dma_regions"] == pages + 1
    for page in order:
        rig.host.unmap(BASE + 4096 * int(page), 8)
    assert rig.engine.counters()["dma_regions"] == 1
