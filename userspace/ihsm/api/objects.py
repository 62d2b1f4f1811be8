# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which class stands for which kind of key."""

from __future__ import annotations

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import Handle
from ihsm.api.kinds import Family, Kind
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.api.secret_key import SecretKey
from ihsm.api.symmetric import SYMMETRIC_CLASSES, SymmetricKey

HsmKey = EcPrivateKey | RsaPrivateKey | SecretKey | SymmetricKey


def key_object(kind: Kind, handle: Handle, facts: KeyFacts) -> HsmKey:
    """The object of a key."""
    if kind.family is Family.EC:
        return EcPrivateKey(handle, facts)
    if kind.family is Family.RSA:
        return RsaPrivateKey(handle, facts)
    if kind.family is Family.SECRET:
        return SecretKey(handle, facts)
    return SYMMETRIC_CLASSES[kind.family](handle, facts)
