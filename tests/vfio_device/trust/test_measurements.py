# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Measurement blocks: their events, types and data, and the logical registers that follow (spec 06 §1.2, §1.3)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import reduce
from typing import Final

import pytest

from ihsm_abi.spdm.manifest import MeasuredFile
from ihsm_abi.spdm.measurements import REGISTER_START, REGISTERS
from ihsm_device.trust.evidence import Measured
from ihsm_device.trust.measurements import CONFIGURATION_BLOCK, Settings, measure_device, record_data

FILES: Final = tuple(
    MeasuredFile(path, hashlib.sha384(path.encode()).digest())
    for path in (
        "ihsm_abi/bits.py",
        "ihsm_abi/spdm/codes.py",
        "ihsm_device/_native.so",
        "ihsm_device/hsm/identity/a.py",
    )
)
SETTINGS: Final = Settings(
    version="3.2.1", svn=1, profile="default", configuration={"b": 1, "a": 2}, validation_hooks=False
)
SIZES: Final = [
    *(16, 101, 9, 261, 101, 101, 9, 13, 53),
    *(45, 53, 13, 101, 13, 13, 53, 21, 21),
    *(53, 13, 101, 13, 13, 53, 53, 53, 53, 53),
]
TYPES: Final = "222233111" + "333311122" + "3331111111" + "33333332"
EVENTS: Final = {
    **{block: 0xE1000000 + block - 1 for block in range(1, 7)},
    **{block: 0xE1000000 + block for block in range(7, 10)},
    **{block: 0xE1000100 + block - 10 for block in range(10, 19)},
    **{block: 0xE1000200 + block - 19 for block in range(19, 29)},
}


def measured(**changes: object) -> dict[int, Measured]:
    return {each.index: each for each in measure_device(FILES, replace(SETTINGS, **changes))}  # type: ignore[arg-type]


def sha384(*parts: bytes) -> bytes:
    return hashlib.sha384(b"".join(parts)).digest()


def test_the_worked_examples() -> None:
    data = record_data(0xE1000007, (1).to_bytes(4, "little"))
    assert data.hex() == "070000e10001000000"
    assert sha384(data).hex().startswith("0bdc2ff4f69cc14cee7d9506c858e5e81d4494aed1e95663b03f839307299580eaddd34874fb")
    register = b"\1" + bytes(47)
    assert sha384(register, sha384(data)).hex().startswith("0d078d39ac7493d35f7e2a8c397c0734a02cdf693457651dde48433e")
    assert measured()[14].data.hex() == "040100e1000100000000000000"


def test_types_events_and_sizes() -> None:
    blocks = measured()
    assert list(blocks) == list(range(1, 37))
    assert "".join(str(int(each.type)) for each in blocks.values()) == TYPES
    assert [len(blocks[index].data) for index in range(1, 29)] == SIZES
    assert sum(SIZES) + 48 * len(SIZES) == 2799
    for index, event in EVENTS.items():
        assert blocks[index].data[:5] == event.to_bytes(4, "little") + b"\0"


def test_what_is_absent_is_zeros() -> None:
    blocks = measured()
    for index in (*range(1, 10), 11, 12, 13, 17, 18, 19, 20, 21, 26, 27, 28):
        assert not any(blocks[index].data[5:]), index


def test_images_are_hashes_over_their_files() -> None:
    blocks = measured()
    bits, codes, native, identity = (file.digest for file in FILES)
    assert blocks[16].data[5:] == sha384(codes, identity)
    assert blocks[24].data[5:] == sha384(bits)
    assert blocks[25].data[5:] == sha384(native)
    assert blocks[29].data == b"".join(file.digest[:8] for file in FILES)
    assert blocks[31].data == len(FILES).to_bytes(4, "little")


def test_package_and_configuration() -> None:
    blocks = measured()
    assert blocks[15].data[5:] == blocks[23].data[5:] == bytes([0, 1, 2, 3, 2, 0, 0, 0])
    assert blocks[CONFIGURATION_BLOCK].data == b'{"a": 2, "b": 1}'
    assert blocks[34].data == b"default"
    assert b"emulator" in blocks[32].data
    assert b"emulator" in blocks[35].data


@pytest.mark.parametrize(
    ("changes", "differ"),
    [
        ({"version": "3.2.2"}, {15, 23}),
        ({"svn": 3}, {14, 22}),
        ({"profile": "firmware"}, {34}),
        ({"configuration": {}}, {33}),
        ({"validation_hooks": True}, {10}),
    ],
)
def test_each_setting_is_in_its_block(changes: dict[str, object], differ: set[int]) -> None:
    before, after = measured(), measured(**changes)
    assert {index for index in before if before[index] != after[index]} == differ


def test_the_registers_follow_from_the_blocks() -> None:
    """Anybody can recompute them (spec 06 §2.5); nothing of the device keeps them."""
    blocks = measured()
    values = {
        name: reduce(lambda value, index: sha384(value, sha384(blocks[index].data)), register, REGISTER_START)
        for name, register in REGISTERS.items()
    }
    assert len(set(values.values())) == 4
