# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Opaque data of the key exchange: the version of secured messages (DMTF DSP0274 1.2 §9, DSP0277 1.1 §8)."""

from __future__ import annotations

from typing import Final

from ihsm_abi.spdm.layout import Layout, Reader, Sizes, SpdmFormatError, counted, number, numbers, repeated

SECURED_VERSION_1_1: Final = 0x1100
"""The version of secured messages that the device speaks."""
_DMTF_REGISTRY: Final = 0
_DATA_VERSION: Final = 1
_SELECTION: Final = 0
_SUPPORTED_LIST: Final = 1
_ALIGNMENT: Final = 4


class OpaqueElement(Layout):
    """One element: of whom, and his data."""

    registry: int = number(1)
    vendor: bytes = counted(1)
    data: bytes = counted(2)

    def padded(self) -> bytes:
        """Its bytes, filled up to a whole number of dwords."""
        encoded = self.encode()
        return encoded + bytes(-len(encoded) % _ALIGNMENT)


def _read_element(reader: Reader, sizes: Sizes) -> OpaqueElement:
    start = reader.offset
    element = OpaqueElement.read(reader, sizes)
    reader.take((start - reader.offset) % _ALIGNMENT)
    return element


class OpaqueList(Layout):
    """Opaque data of format 1: elements."""

    count: int = number(1)
    reserved: int = number(3, default=0)
    elements: tuple[OpaqueElement, ...] = repeated(_read_element, OpaqueElement.padded, lambda values: values["count"])


class _Selection(Layout):
    data_version: int = number(1)
    data_id: int = number(1)
    version: int = number(2)


class _SupportedList(Layout):
    data_version: int = number(1)
    data_id: int = number(1)
    versions: tuple[int, ...] = numbers(2, 1)


def supported_versions(versions: tuple[int, ...] = (SECURED_VERSION_1_1,)) -> bytes:
    """Opaque data of KEY_EXCHANGE: the versions that the requester speaks."""
    return _one_element(_SupportedList(data_version=_DATA_VERSION, data_id=_SUPPORTED_LIST, versions=versions).encode())


def selected_version(version: int = SECURED_VERSION_1_1) -> bytes:
    """Opaque data of KEY_EXCHANGE_RSP: the version chosen."""
    return _one_element(_Selection(data_version=_DATA_VERSION, data_id=_SELECTION, version=version).encode())


def read_supported_versions(data: bytes) -> tuple[int, ...]:
    """The versions that `supported_versions` lists; elements of others are passed over. Raises SpdmFormatError."""
    reader = Reader(_element(data, _SUPPORTED_LIST))
    versions = _SupportedList.read(reader).versions
    reader.end()
    return versions


def read_selected_version(data: bytes) -> int:
    """The version that `selected_version` chose; raises SpdmFormatError."""
    reader = Reader(_element(data, _SELECTION))
    version = _Selection.read(reader).version
    reader.end()
    return version


def _one_element(data: bytes) -> bytes:
    return OpaqueList(count=1, elements=(OpaqueElement(registry=_DMTF_REGISTRY, vendor=b"", data=data),)).encode()


def _element(data: bytes, data_id: int) -> bytes:
    """The data of the one element of secured messages that has this id."""
    reader = Reader(data)
    listed = OpaqueList.read(reader)
    reader.end()
    found = [
        element.data
        for element in listed.elements
        if element.registry == _DMTF_REGISTRY
        and not element.vendor
        and element.data[:2] == bytes([_DATA_VERSION, data_id])
    ]
    if len(found) != 1:
        raise SpdmFormatError(f"{len(found)} elements of secured messages with id {data_id}")
    return found[0]
