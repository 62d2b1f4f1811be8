# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""All families of operations; importing them registers their handlers."""

from ihsm_device.hsm import (
    backup_keys,
    certificate_chain,
    credentials,
    device_info,
    encryption_keys,
    provisioning,
    sessions,
    unwrapping_key,
)
from ihsm_device.hsm.operation import HANDLERS

__all__ = [
    "HANDLERS",
    "backup_keys",
    "certificate_chain",
    "credentials",
    "device_info",
    "encryption_keys",
    "provisioning",
    "sessions",
    "unwrapping_key",
]
