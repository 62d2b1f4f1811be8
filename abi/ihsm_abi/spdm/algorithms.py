# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What both sides agree on: algorithms and their tables (DMTF DSP0274 1.2 §10.4)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Any, Final

from ihsm_abi.spdm.codes import RequestCode, ResponseCode
from ihsm_abi.spdm.layout import Layout, Message, Reader, Sizes, SpdmFormatError, fixed, number, repeated

DMTF_MEASUREMENTS: Final = 1
"""Measurement specification: DMTF's."""
MAX_NEGOTIATE_BYTES: Final = 128
"""Longest NEGOTIATE_ALGORITHMS."""
MAX_EXTENDED: Final = 20
"""Most extended algorithms in it, of all kinds together."""


class OpaqueFormat(IntFlag):
    """Forms of opaque data that a party takes."""

    FORMAT_0 = 1
    FORMAT_1 = 2


class BaseAsym(IntFlag):
    """Signatures of the responder, or, in a table, of the requester."""

    RSASSA_2048 = 1 << 0
    RSAPSS_2048 = 1 << 1
    RSASSA_3072 = 1 << 2
    RSAPSS_3072 = 1 << 3
    ECDSA_P256 = 1 << 4
    RSASSA_4096 = 1 << 5
    RSAPSS_4096 = 1 << 6
    ECDSA_P384 = 1 << 7
    ECDSA_P521 = 1 << 8
    SM2 = 1 << 9
    ED25519 = 1 << 10
    ED448 = 1 << 11


class BaseHash(IntFlag):
    """Hashes of transcripts, certificate chains and keys."""

    SHA256 = 1 << 0
    SHA384 = 1 << 1
    SHA512 = 1 << 2
    SHA3_256 = 1 << 3
    SHA3_384 = 1 << 4
    SHA3_512 = 1 << 5
    SM3 = 1 << 6


HASH_PREFERENCE: Final = (BaseHash.SHA384, BaseHash.SHA512, BaseHash.SHA256)
"""The device takes the first that the requester offers (spec 06 §2.1)."""
HASHLIB_NAMES: Final = {BaseHash.SHA256: "sha256", BaseHash.SHA384: "sha384", BaseHash.SHA512: "sha512"}


class MeasurementHash(IntFlag):
    """Hash of measurements."""

    RAW_ONLY = 1 << 0
    SHA256 = 1 << 1
    SHA384 = 1 << 2
    SHA512 = 1 << 3


class Dhe(IntFlag):
    """Groups of the key exchange."""

    FFDHE_2048 = 1 << 0
    FFDHE_3072 = 1 << 1
    FFDHE_4096 = 1 << 2
    SECP256R1 = 1 << 3
    SECP384R1 = 1 << 4
    SECP521R1 = 1 << 5
    SM2 = 1 << 6


class Aead(IntFlag):
    """Ciphers of secured messages."""

    AES_128_GCM = 1 << 0
    AES_256_GCM = 1 << 1
    CHACHA20_POLY1305 = 1 << 2
    SM4_GCM = 1 << 3


class KeySchedule(IntFlag):
    """Ways from the shared secret to keys."""

    SPDM = 1


class TableType(IntEnum):
    """What a table of algorithms is of."""

    DHE = 2
    AEAD = 3
    REQUESTER_ASYM = 4
    KEY_SCHEDULE = 5


_FIXED_WIDTH: Final = 2
"""Bytes of the fixed algorithms of every table."""
_EXTENDED_BYTES: Final = 4


class AlgorithmTable(Layout):
    """One table: of a request everything supported, of an answer what was chosen."""

    type: int = number(1)
    counts: int = number(1)
    """Low half: how many extended algorithms; high half: bytes of fixed ones, 2."""
    algorithms: int = number(2)
    extended: tuple[bytes, ...] = repeated(
        lambda reader, _sizes: reader.take(_EXTENDED_BYTES), bytes, lambda values: values["counts"] & 0xF, default=()
    )

    @classmethod
    def of(cls, type: TableType, algorithms: int) -> AlgorithmTable:
        """A table without extended algorithms."""
        return cls(type=type, counts=_FIXED_WIDTH << 4, algorithms=algorithms)


def _read_table(reader: Reader, sizes: Sizes) -> AlgorithmTable:
    table = AlgorithmTable.read(reader, sizes)
    if table.counts >> 4 != _FIXED_WIDTH:
        raise SpdmFormatError(f"{table.counts >> 4} bytes of fixed algorithms in table {table.type}")
    return table


def _table_count(values: Mapping[str, Any]) -> int:
    return int(values["table_count"])


def _read_extended(reader: Reader, _sizes: Sizes) -> bytes:
    return reader.take(_EXTENDED_BYTES)


def _extended_count(values: Mapping[str, Any]) -> int:
    return int(values["extended_asym_count"] + values["extended_hash_count"])


def _check_tables(tables: tuple[AlgorithmTable, ...]) -> None:
    """Tables are those known, in rising order, each once."""
    types = [table.type for table in tables]
    if types != sorted(set(types)) or not set(types) <= set(TableType):
        raise SpdmFormatError(f"tables of types {types}")


class NegotiateAlgorithms(Message):
    """Request 0xE3: what the requester can do."""

    CODE = RequestCode.NEGOTIATE_ALGORITHMS
    table_count: int = number(1)
    length: int = number(2, reserved=1)
    measurement_specification: int = number(1)
    opaque_formats: int = number(1)
    base_asym: int = number(4)
    base_hash: int = number(4)
    reserved: bytes = fixed(12, default=bytes(12))
    extended_asym_count: int = number(1, default=0)
    extended_hash_count: int = number(1, default=0)
    reserved_tail: bytes = fixed(2, default=bytes(2))
    extended: tuple[bytes, ...] = repeated(_read_extended, bytes, _extended_count, default=())
    tables: tuple[AlgorithmTable, ...] = repeated(_read_table, AlgorithmTable.encode, _table_count)

    @classmethod
    def of(
        cls,
        *,
        base_asym: int = BaseAsym.ECDSA_P384,
        base_hash: int = BaseHash.SHA384,
        tables: tuple[AlgorithmTable, ...] = (),
        measurement_specification: int = DMTF_MEASUREMENTS,
        opaque_formats: int = OpaqueFormat.FORMAT_1,
    ) -> NegotiateAlgorithms:
        """A request of the right length, without extended algorithms."""
        length = 32 + sum(len(table.encode()) for table in tables)
        return cls(
            table_count=len(tables),
            length=length,
            measurement_specification=measurement_specification,
            opaque_formats=opaque_formats,
            base_asym=base_asym,
            base_hash=base_hash,
            tables=tables,
        )

    def check(self, size: int) -> None:
        """Its length is as it says, at most 128, with at most 20 extended algorithms, and its tables are in order."""
        if self.length != size or size > MAX_NEGOTIATE_BYTES:
            raise SpdmFormatError(f"length {self.length} of a message of {size}")
        extended = len(self.extended) + sum(len(table.extended) for table in self.tables)
        if extended > MAX_EXTENDED:
            raise SpdmFormatError(f"{extended} extended algorithms")
        _check_tables(self.tables)


class Algorithms(Message):
    """Answer 0x63: what the responder chose, one of each."""

    CODE = ResponseCode.ALGORITHMS
    table_count: int = number(1)
    length: int = number(2, reserved=1)
    measurement_specification: int = number(1)
    opaque_format: int = number(1)
    measurement_hash: int = number(4)
    base_asym: int = number(4)
    base_hash: int = number(4)
    reserved: bytes = fixed(12, default=bytes(12))
    extended_asym_count: int = number(1, default=0)
    extended_hash_count: int = number(1, default=0)
    reserved_tail: bytes = fixed(2, default=bytes(2))
    extended: tuple[bytes, ...] = repeated(_read_extended, bytes, _extended_count, default=())
    tables: tuple[AlgorithmTable, ...] = repeated(_read_table, AlgorithmTable.encode, _table_count)

    @classmethod
    def of(
        cls,
        *,
        measurement_specification: int,
        opaque_format: int,
        measurement_hash: int,
        base_asym: int,
        base_hash: int,
        tables: tuple[AlgorithmTable, ...],
    ) -> Algorithms:
        """An answer of the right length."""
        length = 36 + sum(len(table.encode()) for table in tables)
        return cls(
            table_count=len(tables),
            length=length,
            measurement_specification=measurement_specification,
            opaque_format=opaque_format,
            measurement_hash=measurement_hash,
            base_asym=base_asym,
            base_hash=base_hash,
            tables=tables,
        )

    def check(self, size: int) -> None:
        """Its length is as it says, and its tables are in order."""
        if self.length != size:
            raise SpdmFormatError(f"length {self.length} of a message of {size}")
        _check_tables(self.tables)
