# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `ihsm.chardev`, whose names are loaded when used.

from ihsm.chardev.device import NodeDevice
from ihsm.chardev.information import NodeInformation
from ihsm.chardev.node_file import SYSTEM, Calls

__all__ = [
    "SYSTEM",
    "Calls",
    "NodeDevice",
    "NodeInformation",
]
