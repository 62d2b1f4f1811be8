# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver that does nothing: with it, what is measured of an ioctl is the way there and back."""

from __future__ import annotations

from ihsm_kmod.hsm.nodes import hsm_nodes
from ihsm_kmod.kernel.cdev import File, FileOperations
from ihsm_kmod.kernel.module import Module


class EmptyModule(Module):
    """A module with one node, as the HSM driver has it, whose ioctls all succeed."""

    name = "empty"

    def init(self) -> None:
        """Make the node."""
        self._nodes = hsm_nodes()
        self._node = self._nodes.create(None, self._nodes.take_minor(), FileOperations(unlocked_ioctl=self._ioctl))

    def exit(self) -> None:
        """Remove it."""
        self._nodes.remove(self._node)
        self._nodes.destroy()

    def _ioctl(self, file: File, number: int, argument: int) -> int:
        return 0
