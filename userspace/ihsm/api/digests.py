# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Hashing before the device signs: it takes digests, and never hashes itself (spec 05 §3.1)."""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ihsm.api.errors import UnsupportedByDeviceError
from ihsm.arguments import Octets, octets
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import HashAlgorithm

DEVICE_HASHES: Final = {
    "sha1": HashAlgorithm.Sha1,
    "sha256": HashAlgorithm.Sha256,
    "sha384": HashAlgorithm.Sha384,
    "sha512": HashAlgorithm.Sha512,
}
"""Those that the device knows by name; in FIPS-approved mode it refuses some with some curves (spec 05 §9)."""
_FAST: Final = {"sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
"""Those whose standard-library form is quicker to call than pyca's, with the same result."""


def digest_of(
    operation: str, data: Octets, algorithm: hashes.HashAlgorithm | Prehashed
) -> tuple[bytes, hashes.HashAlgorithm]:
    """The digest of data, or data itself if it is one already (`Prehashed`), and its algorithm.

    Raises:
        ArgumentTypeError: data are no bytes, or the algorithm is none.
        ArgumentError: Prehashed data that no digest of this algorithm can be.
    """
    message = octets(operation, "data", data)
    if isinstance(algorithm, Prehashed):
        made_by = algorithm._algorithm  # pyca has no public name for it
        if len(message) != made_by.digest_size:
            problem = f"{len(message)} bytes, a {made_by.name} digest has {made_by.digest_size}"
            raise ArgumentError(operation, "data", problem)
        return message, made_by
    if not isinstance(algorithm, hashes.HashAlgorithm):
        raise ArgumentTypeError(operation, "algorithm", f"{type(algorithm).__name__}, must be a HashAlgorithm")
    return digest(message, algorithm), algorithm


def device_hash(operation: str, does: str, algorithm: hashes.HashAlgorithm) -> HashAlgorithm:
    """What the device is told of a hash that it `does` something with.

    Raises:
        UnsupportedByDeviceError: it does not know it.
    """
    known = DEVICE_HASHES.get(algorithm.name)
    if known is None:
        raise UnsupportedByDeviceError(
            operation, f"the device {does} with {', '.join(DEVICE_HASHES)}, not {algorithm.name}"
        )
    return known


def digest(message: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    """Hash a message."""
    fast = _FAST.get(algorithm.name)
    if fast is not None:
        return fast(message).digest()
    context = hashes.Hash(algorithm)
    context.update(message)
    return context.finalize()
