# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function that looks like a physical one: over vfio-user a function is always a VF (spec 01 §1.1)."""

from __future__ import annotations

from typing import Final

from ihsm.bus.function import PciFunction
from support.bent_function import BentFunction

SRIOV: Final = 0x200
SRIOV_ID: Final = 0x0010
NEXT_CAPABILITY: Final = range(0x102, 0x104)
"""The device has one extended capability; behind it comes ours."""


class PhysicalFunction(BentFunction):
    """Passes everything on, and has an SR-IOV capability with so many VFs."""

    def __init__(self, inner: PciFunction, num_vfs: int) -> None:
        super().__init__(inner)
        self._overlay = dict(zip(NEXT_CAPABILITY, (SRIOV << 4 | 1).to_bytes(2, "little"), strict=True))
        for offset, value, size in ((0, 1 << 16 | SRIOV_ID, 4), (8, 1, 2), (0x0E, 64, 2), (0x10, num_vfs, 2)):
            self._overlay |= dict(enumerate(value.to_bytes(size, "little"), SRIOV + offset))

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        data = super().read_config(offset, size_bytes)
        return bytes(self._overlay.get(offset + index, byte) for index, byte in enumerate(data))
