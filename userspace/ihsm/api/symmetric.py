# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The classes of symmetric keys by what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ihsm.api.cbc import AesCbcKey
from ihsm.api.gcm import AesGcmKey
from ihsm.api.hmac_key import HmacKey
from ihsm.api.kinds import Family
from ihsm.api.xts import AesXtsKey

SymmetricKey = AesGcmKey | AesXtsKey | AesCbcKey | HmacKey

SYMMETRIC_CLASSES: Final[Mapping[Family, type[SymmetricKey]]] = MappingProxyType(
    {Family.GCM: AesGcmKey, Family.XTS: AesXtsKey, Family.CBC: AesCbcKey, Family.HMAC: HmacKey}
)
