# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which memory a driver has made reachable, and which of it commands name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ihsm.trace.commands import admin_command, form_of
from ihsm.trace.rules.seen import Seen
from ihsm_abi.admin import IDENTIFY, AdminOpcode
from ihsm_abi.aes_queue import AES_SQE, GCM_SQE, AesAttr, Cipher
from ihsm_abi.hsm_queue import HSM_SQE
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID


class Extent(NamedTuple):
    """Memory that something names."""

    what: str
    iova: int
    size: int
    """Bytes."""

    def overlaps(self, iova: int, size: int) -> bool:
        """Whether it has bytes of another stretch."""
        return iova < self.iova + self.size and self.iova < iova + size

    def __str__(self) -> str:
        """For people."""
        return f"{self.what} at {self.iova:#x}, {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Memory that the device can use."""

    iova: int
    size: int
    seen: Seen
    own: bool
    """The driver made it for the function, while it drove it: no memory of a whole machine."""


class Mappings:
    """All that is reachable now."""

    def __init__(self) -> None:
        """Nothing is."""
        self._by_iova: dict[int, Mapping] = {}

    def add(self, mapping: Mapping) -> None:
        """From now on."""
        self._by_iova[mapping.iova] = mapping

    def remove(self, iova: int, size: int) -> None:
        """All that overlaps; a client can only unmap what it mapped."""
        for mapping in self.overlapping(iova, size):
            del self._by_iova[mapping.iova]

    def clear(self) -> None:
        """Nothing is any more."""
        self._by_iova.clear()

    def __iter__(self) -> Iterator[Mapping]:
        """In the order of mapping."""
        return iter(self._by_iova.values())

    def overlapping(self, iova: int, size: int) -> list[Mapping]:
        """Those that have bytes of a stretch."""
        return [mapping for mapping in self if Extent("", iova, size).overlaps(mapping.iova, mapping.size)]

    def gap(self, extent: Extent) -> int | None:
        """The first address of an extent that is not reachable."""
        at, end = extent.iova, extent.iova + extent.size
        for mapping in sorted(self.overlapping(extent.iova, extent.size), key=lambda one: one.iova):
            if mapping.iova > at:
                break
            at = max(at, mapping.iova + mapping.size)
        return at if at < end else None


_PAGE_POINTERS: Final = (("source", "src"), ("destination", "dst"))


def named_by(queue: int, data: bytes) -> list[Extent]:
    """Memory that an entry names, rings aside; of lists the first segment, for what that names was not recorded."""
    if len(data) != form_of(queue).sqe.itemsize:
        return []
    if queue == ADMIN_QUEUE_ID:
        command = admin_command(data)
        is_identify = command is not None and command.opcode == AdminOpcode.IDENTIFY and command.prp1
        return [Extent("identify page", command.prp1, IDENTIFY.itemsize)] if command and is_identify else []
    return list(_aes(data) if queue >= FIRST_AES_QUEUE_ID else _hsm(data))


def _hsm(data: bytes) -> Iterator[Extent]:
    sqe = np.frombuffer(data, HSM_SQE)[0]
    for what, side in _PAGE_POINTERS:
        left = int(sqe[f"{side}_len"])
        for number in (1, 2):
            address = int(sqe[f"{side}_prp{number}"])
            size = min(left, PAGE_BYTES - address % PAGE_BYTES)
            if address and size:
                yield Extent(f"{what} PRP{number}", address, size)
            left -= size


def _aes(data: bytes) -> Iterator[Extent]:
    sqe = np.frombuffer(data, AES_SQE)[0]
    for what, side in _PAGE_POINTERS:
        descriptor = sqe[side]
        if descriptor["len"] and descriptor["addr"]:
            yield Extent(f"{what} list", int(descriptor["addr"]), int(descriptor["len"]))
    gcm = np.frombuffer(data, GCM_SQE)[0]
    if AesAttr(int(gcm["attr"])).cipher == Cipher.GCM:
        for what, side in _PAGE_POINTERS:
            address, size = int(gcm[f"tail_{side}_addr"]), int(gcm[f"tail_{side}_len"])
            if address and size:
                yield Extent(f"{what} tail", address, size)
