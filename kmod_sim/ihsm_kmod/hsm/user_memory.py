# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An ioctl's buffer: the driver's copy of it, seen as the structure that it is."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import copy_from_user, copy_to_user


class UserBuffer:
    """The driver's copy of a structure of the caller's; zero until it was read.

    `fields` shows it: what the driver writes there goes back with `write_back`, what it does not write goes back as it
    came (spec 02 A.6: fields are not zeroed before).
    """

    def __init__(self, address: int, layout: np.dtype[np.void]) -> None:
        """For the structure at this address of the calling process."""
        self.address = address
        self.data = bytearray(layout.itemsize)
        self.fields: Any = np.frombuffer(self.data, layout)[0]

    def read(self, size: int | None = None) -> None:
        """Copy the first `size` bytes in, or all; `Errno` EFAULT leaves the copy as it was."""
        size = len(self.data) if size is None else size
        self.data[:size] = copy_from_user(self.address, size)

    def write_back(self, size: int | None = None) -> int:
        """Copy the first `size` bytes out, or all; returns how many were not copied."""
        return copy_to_user(self.address, bytes(self.data[:size]))

    def answer(self, size: int | None = None) -> None:
        """`write_back`; `Errno` EFAULT if anything was not copied."""
        if self.write_back(size):
            raise Errno(errno.EFAULT, "the answer cannot be written")
