# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ways to reach a PCI function: a vfio-user socket, or the kernel's VFIO."""

from ihsm.bus.arena import DmaArena, DmaBuffer
from ihsm.bus.function import PciFunction
from ihsm.bus.vfio_user import VfioUserFunction

__all__ = ["DmaArena", "DmaBuffer", "PciFunction", "VfioUserFunction"]
