# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""All families of operations; importing them registers their handlers."""

from ihsm_device.hsm import aes, attest, derive, device_info, ecc, hmac, keys, rsa, unwrap
from ihsm_device.hsm.operation import HANDLERS

__all__ = ["HANDLERS", "aes", "attest", "derive", "device_info", "ecc", "hmac", "keys", "rsa", "unwrap"]
