# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""All families of operations; importing them registers their handlers."""

from ihsm_device.hsm.operations import (
    aes,
    attest,
    backup_keys,
    certificate_chain,
    derive,
    device_info,
    ecc,
    encryption_keys,
    hmac,
    keys,
    provisioning,
    rsa,
    sessions,
    unwrap,
    unwrapping_key,
    validation,
)
from ihsm_device.hsm.operations.operation import HANDLERS

__all__ = [
    "HANDLERS",
    "aes",
    "attest",
    "backup_keys",
    "certificate_chain",
    "derive",
    "device_info",
    "ecc",
    "encryption_keys",
    "hmac",
    "keys",
    "provisioning",
    "rsa",
    "sessions",
    "unwrap",
    "unwrapping_key",
    "validation",
]
