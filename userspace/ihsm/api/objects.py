# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which class stands for which kind of key."""

from __future__ import annotations

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import Handle
from ihsm.api.kinds import Family, Kind
from ihsm.api.rsa_key import RsaPrivateKey

HsmKey = EcPrivateKey | RsaPrivateKey


def key_object(kind: Kind, handle: Handle, facts: KeyFacts) -> HsmKey:
    """The object of a key."""
    if kind.family is Family.EC:
        return EcPrivateKey(handle, facts)
    return RsaPrivateKey(handle, facts)
