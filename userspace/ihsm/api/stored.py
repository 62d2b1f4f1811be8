# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a store's record says of a key, as the key API understands it."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.api.kinds import KINDS, Family, Kind, Usage
from ihsm.api.making import CURVES, TWEAK
from ihsm.errors import StoreDamagedError, StoreError
from ihsm.store import KeyVersion


def stored(store: str, label: str, version: KeyVersion) -> tuple[Kind, dict[Usage, tuple[bytes, ...]]]:
    """Kind of a key, and its masked keys for each usage, of which AES-XTS has two.

    Raises:
        StoreError: of a kind that is not known here.
        StoreDamagedError: what the record says cannot be.
    """
    place = f"store {store!r}: key {label!r} version {version.version}"
    kind = KINDS.get(version.kind)
    if kind is None:
        raise StoreError(f"{place}: its kind {version.kind!r} is not known here: use the version of ihsm that made it")
    named = dict(version.usages)
    tweak = (named.pop(TWEAK),) if kind.family is Family.XTS and TWEAK in named else ()
    problem = _problem(kind, version.public)
    if not named or not named.keys() <= set(kind.usages):
        problem = f"usages: a {kind.name} key has {' or '.join(kind.usages)}"
    elif kind.family is Family.XTS and not tweak:
        problem = f"usages: {TWEAK} is missing"
    if problem:
        raise StoreDamagedError(f"{place}: {problem}; restore it from a copy of the store")
    return kind, {usage: (named[usage], *tweak) for usage in kind.usages if usage in named}


def _problem(kind: Kind, public: bytes | None) -> str:
    """What is wrong with the public key of a record."""
    if kind.family not in (Family.EC, Family.RSA):
        return "" if public is None else f"public: a {kind.name} key has none"
    try:
        key = None if public is None else load_der_public_key(public)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    fits = (isinstance(key, ec.EllipticCurvePublicKey) and CURVES.get(key.curve.name) == kind.name) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size == kind.bits
    )
    return "" if fits else f"public: no {kind.name} public key"
