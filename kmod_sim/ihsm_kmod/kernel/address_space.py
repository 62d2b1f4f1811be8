# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the kernel can do with a process's memory, whatever that is."""

from __future__ import annotations

from typing import Protocol


class AddressSpace(Protocol):
    """Memory of one process (Linux: struct mm_struct)."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes at `address`: as many as are there, which is fewer than `size` up to the first page that is not."""

    def write(self, address: int, data: bytes) -> int:
        """Write, up to the first page that cannot be written; how many bytes that were."""

    def accessible_bytes(self, address: int, size: int, write: bool) -> int:
        """How many of `size` bytes are there, and with `write` may be written, up to the first page of which not."""
