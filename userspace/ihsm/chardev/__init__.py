# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device behind the node of a kernel's driver, /dev/azihsm0: HSM and AES commands are ioctls (spec 02 A)."""

from ihsm_abi.lazy_names import loader

_HOMES = {
    "Calls": "node_file",
    "NodeDevice": "device",
    "NodeInformation": "information",
    "SYSTEM": "node_file",
}
"""Module of each name, loaded when used."""

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
