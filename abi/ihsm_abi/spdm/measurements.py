# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Measurement blocks, and the summaries over them (DMTF DSP0274 1.2 §10.11; spec 06 §1.3, §2.1)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from ihsm_abi.spdm.algorithms import DMTF_MEASUREMENTS
from ihsm_abi.spdm.layout import Layout, Reader, SpdmFormatError, counted, number

FIRST_BLOCK: Final = 1
LAST_BLOCK: Final = 36
LAST_TCB_BLOCK: Final = 28
"""Blocks up to this one are in the summary of the TCB."""
REGISTERS: Final = {"ROM": range(1, 10), "SPRT": range(10, 19), "SOC": range(19, 29), "CERBERUS": range(29, 37)}
"""The blocks of each logical measurement register, in the order in which they extend it."""
REGISTER_START: Final = bytes(48)
"""What a logical register holds before its first block (spec 06 §2.5)."""
EVENT_HEADER_BYTES: Final = 5
"""Event id and version, with which the data of blocks 1 to 28 begin."""
_RAW: Final = 0x80


class MeasurementType(IntEnum):
    """What a block is of."""

    IMMUTABLE_ROM = 0
    MUTABLE_FIRMWARE = 1
    HARDWARE_CONFIGURATION = 2
    FIRMWARE_CONFIGURATION = 3
    MANIFEST = 4


class _DmtfValue(Layout):
    kind: int = number(1)
    value: bytes = counted(2)


class MeasurementBlock(Layout):
    """One block on the wire. `measurement`: type and raw bit, length, value."""

    index: int = number(1)
    specification: int = number(1)
    measurement: bytes = counted(2)

    @classmethod
    def of(cls, index: int, type: int, value: bytes, *, raw: bool) -> MeasurementBlock:
        """A block in DMTF's form: data as they are, or their hash; `type` is a `MeasurementType`."""
        measurement = _DmtfValue(kind=type | (_RAW if raw else 0), value=value).encode()
        return cls(index=index, specification=DMTF_MEASUREMENTS, measurement=measurement)

    @property
    def type(self) -> int:
        """What the block is of (`MeasurementType`)."""
        return self._dmtf().kind & ~_RAW

    @property
    def raw(self) -> bool:
        """Whether the value is data, and not their hash."""
        return bool(self._dmtf().kind & _RAW)

    @property
    def value(self) -> bytes:
        """Data or hash."""
        return self._dmtf().value

    def _dmtf(self) -> _DmtfValue:
        """Raises SpdmFormatError unless the measurement is in DMTF's form."""
        reader = Reader(self.measurement)
        value = _DmtfValue.read(reader)
        reader.end()
        return value


def encode_record(blocks: Iterable[MeasurementBlock]) -> bytes:
    """A measurement record: blocks one after the other."""
    return b"".join(block.encode() for block in blocks)


def decode_record(record: bytes, count: int) -> tuple[MeasurementBlock, ...]:
    """The `count` blocks of a record, each in DMTF's form; raises SpdmFormatError."""
    reader = Reader(record)
    blocks = tuple(MeasurementBlock.read(reader) for _ in range(count))
    reader.end()
    for block in blocks:
        if block.specification != DMTF_MEASUREMENTS:
            raise SpdmFormatError(f"measurement specification {block.specification} of block {block.index}")
        block._dmtf()
    return blocks
