# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Handles, enumerations, results and errors of the key store."""

from __future__ import annotations

import enum
from typing import NamedTuple, NewType

Handle = NewType("Handle", int)
"""A key in the store: slot number and generation; 0 is never a valid handle, and no handle is ever used twice."""

Part = bytes | Handle
"""A piece of KDF input: public bytes, or the whole value of a secret in the store."""


class Hash(enum.IntEnum):
    """Hash functions, numbered as on the wire (spec 05 §3)."""

    SHA1 = 1
    SHA256 = 2
    SHA384 = 3
    SHA512 = 4

    @property
    def size_bytes(self) -> int:
        """Digest length."""
        return (20, 32, 48, 64)[self - 1]


class Curve(enum.IntEnum):
    """NIST curves, numbered as on the wire (spec 05 §3)."""

    P256 = 1
    P384 = 2
    P521 = 3

    @property
    def size_bytes(self) -> int:
        """Length of a coordinate, of a scalar and of half a signature."""
        return (32, 48, 66)[self - 1]


class Kind(enum.IntEnum):
    """What a handle refers to."""

    SECRET = 1
    EC = 2
    RSA = 3
    RSA_CRT = 4


class Scope(enum.IntEnum):
    """How long a key lives; the security module destroys by scope."""

    DEVICE = 0  # until the process ends: device secret, device identity
    IDENTITY = 1  # of a partition, kept across NSSR and disable: identity key, BK_BOOT, stored unwrapping key
    PARTITION = 2  # of a partition, ends with NSSR: credential, MK, K_est, K_sess, application keys
    SESSION = 3  # ends with its session: session MK, session-only keys
    TRUST = 4  # ends with the secured session of the mailbox


class Owner(NamedTuple):
    """Owner tags of a key: internal function index, how long it lives, session id; -1 is none."""

    function: int = -1
    scope: Scope = Scope.DEVICE
    session: int = -1


class BulkType(enum.IntEnum):
    """Type bits of a fast-path key (spec 02 E.1)."""

    XTS = 0
    GCM_APPROVED = 1
    GCM_UNAPPROVED = 2


class PairwiseTest(enum.IntEnum):
    """Pairwise consistency tests (FIPS 140-3 IG 10.3.A; spec 06 §3.3)."""

    SIGN = 1
    AGREE = 2
    ENCRYPT = 3


class CredentialCheck(enum.IntEnum):
    """Verdict on a credential, computed in constant time."""

    MATCH = 0
    NULL = 1  # id or PIN all zero
    MISMATCH = 2


class KeyStoreError(Exception):
    """Base of all errors of the store; the text never holds key material."""


class StaleHandleError(KeyStoreError):
    """The handle's key was destroyed, or the handle never existed."""


class WrongKindError(KeyStoreError):
    """The handle refers to another kind of key than the operation needs."""


class ArgumentError(KeyStoreError):
    """A length or value outside the documented range."""


class KeyStoreMemoryError(KeyStoreError):
    """The locked arena cannot grow."""


class CryptoFailureError(KeyStoreError):
    """The crypto library refused the operation."""


class DecodeError(KeyStoreError):
    """An imported key is not of the documented form."""


class KeySizeError(KeyStoreError):
    """An imported or given key has an unsupported size (RSA modulus, AES key, curve)."""


class KeyStructureError(KeyStoreError):
    """The parts of an imported key contradict each other: d outside 1..n-1, d*G not the public point, p*q not n, ..."""

    def __init__(self, message: str, size_bytes: int = 0) -> None:
        """`size_bytes`: coordinate or modulus size of the refused key, 0 if unknown."""
        super().__init__(message)
        self.size_bytes = size_bytes


class AuthenticationError(KeyStoreError):
    """An authentication tag or seal does not verify."""


class OaepError(KeyStoreError):
    """RSA-OAEP decoding failed."""


class KeyUnwrapError(KeyStoreError):
    """AES key unwrap with padding (RFC 5649) failed."""


class RangeError(KeyStoreError):
    """An RSA input is not in 1 < y < n-1."""


class LengthError(KeyStoreError):
    """An RSA input has not the modulus length, or a point or signature not the length of its curve."""


class PointRangeError(KeyStoreError):
    """A coordinate is 0 or >= p."""


class PointNotOnCurveError(KeyStoreError):
    """The coordinates are in range but do not satisfy the curve equation."""


class PointAtInfinityError(KeyStoreError):
    """The point at infinity, encoded as a single zero byte."""


class PairwiseTestError(KeyStoreError):
    """A pairwise consistency test failed; the caller must destroy the key."""


class StateFileError(KeyStoreError):
    """The device-secret file is damaged, of another version, or cannot be read or written."""


class StatePermissionError(StateFileError):
    """The device-secret file is no regular file of this user with mode 0600."""


class HooksDisabledError(KeyStoreError):
    """A validation hook or fault was used in a store opened without them."""


class Statistics(NamedTuple):
    """Memory of the arena and population of the store; sizes in bytes."""

    bytes_in_use: int
    bytes_peak: int
    bytes_reserved: int
    bytes_locked: int
    keys: int
    keys_dying: int
    """destroyed, but still used by an operation in flight"""
    published: int
    """bulk keys visible to the fast path"""


class RsaPublic(NamedTuple):
    """RSA public key: modulus, and exponent without leading zeros, both big-endian."""

    n: bytes
    e: bytes


class Withheld(NamedTuple):
    """Texts that begin like `value` where `mask` has bits; of those, bytes `start` to `end` are a secret."""

    value: bytes
    mask: bytes
    start: int
    end: int


class Credential(NamedTuple):
    """Decrypted fields of a credential message; absent fields are None."""

    id: Handle | None
    pin: Handle
    seed: Handle | None
