# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `ihsm.bus`, whose names are loaded when used.

from ihsm.bus.arena import DmaArena, DmaBuffer
from ihsm.bus.doe import Mailbox
from ihsm.bus.function import PciFunction
from ihsm.bus.sysfs_config import SysfsConfig
from ihsm.bus.vfio_user import VfioUserFunction

__all__ = [
    "DmaArena",
    "DmaBuffer",
    "Mailbox",
    "PciFunction",
    "SysfsConfig",
    "VfioUserFunction",
]
