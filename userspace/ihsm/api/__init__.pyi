# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `ihsm.api`, whose names are loaded when used.

from ihsm.api.attest import VerifiedReport
from ihsm.api.cbc import AesCbcKey
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.errors import (
    InvalidCiphertextError,
    KeyNotExportableError,
    MacMismatchError,
    NonceRefusedError,
    SignatureMismatchError,
    TagMismatchError,
    UnsupportedByDeviceError,
)
from ihsm.api.facts import KeyFacts
from ihsm.api.gcm import AesGcmKey
from ihsm.api.handles import DeviceKey
from ihsm.api.hmac_key import HmacKey
from ihsm.api.hsm import Hsm
from ihsm.api.kinds import Usage
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.api.secret_key import SecretKey
from ihsm.api.xts import AesXtsKey

__all__ = [
    "AesCbcKey",
    "AesGcmKey",
    "AesXtsKey",
    "DeviceKey",
    "EcPrivateKey",
    "HmacKey",
    "Hsm",
    "InvalidCiphertextError",
    "KeyFacts",
    "KeyNotExportableError",
    "MacMismatchError",
    "NonceRefusedError",
    "RsaPrivateKey",
    "SecretKey",
    "SignatureMismatchError",
    "TagMismatchError",
    "UnsupportedByDeviceError",
    "Usage",
    "VerifiedReport",
]
