# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# What type checkers see of `ihsm.api`, whose names are loaded when used.

from ihsm.api.attest import VerifiedReport
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.errors import (
    InvalidCiphertextError,
    KeyNotExportableError,
    NonceRefusedError,
    TagMismatchError,
    UnsupportedByDeviceError,
)
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import DeviceKey
from ihsm.api.hsm import Hsm
from ihsm.api.kinds import Usage
from ihsm.api.rsa_key import RsaPrivateKey

__all__ = [
    "DeviceKey",
    "EcPrivateKey",
    "Hsm",
    "InvalidCiphertextError",
    "KeyFacts",
    "KeyNotExportableError",
    "NonceRefusedError",
    "RsaPrivateKey",
    "TagMismatchError",
    "UnsupportedByDeviceError",
    "Usage",
    "VerifiedReport",
]
