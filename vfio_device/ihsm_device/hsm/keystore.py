# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The native key store: typed handles to keys that never leave it.

All key material, symmetric and private, is generated, imported, used, masked and wiped in C, inside a locked and
wiping memory arena; Python holds `Handle` integers. No method returns secret bytes, except `hook_reveal`, which works
only in a store opened with `validation_hooks=True`.

Conventions, everywhere in this module:

* Byte strings are big-endian and canonical: an EC point is `04 || X || Y` (SEC 1 uncompressed, coordinates of 32, 48 or
  66 bytes), an ECDSA signature is `r || s` with halves of the coordinate size, an RSA number has the modulus length.
  The dialects of the wire (raw little-endian, SubjectPublicKeyInfo) are the business of the caller.
* Every method may raise `StaleHandleError` (the key was destroyed), `WrongKindError` (an RSA handle where an EC key is
  needed, ...), `KeyStoreMemoryError`, `CryptoFailureError` (the library refused an operation for no documented reason)
  and `ArgumentError` (lengths outside what the method documents). Further errors are listed at each method.
* Methods may be called from any thread at once. The interpreter lock is released during a call; operations on a key
  that is destroyed meanwhile finish, the key is wiped when the last of them ends.
* New keys belong to an `Owner`; `destroy_group` destroys by owner.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
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


class Owner(NamedTuple):
    """Owner tags of a key. `function` is the internal function index (-1: none), `session` the session id (-1: none)."""

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
    """The parts of an imported key contradict each other: d outside 1..n-1 or d*G is not the public point."""


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


class Credential(NamedTuple):
    """Decrypted fields of a credential message; absent fields are None."""

    id: Handle | None
    pin: Handle
    seed: Handle | None


class BulkTable:
    """Fast-path keys of one function: published by key number, read by C workers without a lock (spec 02 E.1)."""

    @property
    def native(self) -> object:
        """The `ks_bulk_table *`, for the engine of the same function."""
        raise NotImplementedError

    def publish(
        self, key_id: int, key: Handle, bulk_type: BulkType, *, session_id: int, app_id: int, session_only: bool
    ) -> None:
        """Make a 32-byte secret usable on the fast path as `key_id` (u16), replacing nothing.

        AES key schedules are prepared here, once. Destroying `key` withdraws it too.
        Raises `ArgumentError` if `key_id` is published already or `key` is published elsewhere.
        """
        raise NotImplementedError

    def withdraw(self, key_id: int) -> bool:
        """Take a key away; False if there is none.

        Commands in flight finish and may report "key deleted in flight"; the last of them wipes the schedules.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Withdraw all keys and free the table. No reader may hold it any more."""
        raise NotImplementedError


class KeyStore:
    """The key store of this process; only one can be open at a time."""

    def __init__(self, *, validation_hooks: bool = False, fault_injection: bool = False) -> None:
        """Open the store: arena, memory locks, process made non-dumpable.

        `validation_hooks` enables the `hook_*` methods, `fault_injection` `set_fault`; both are fixed until `close`.
        Raises `RuntimeError` if a store is open already.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Destroy and wipe every key, whoever owns it. The store can then be opened anew."""
        raise NotImplementedError

    @property
    def validation_hooks(self) -> bool:
        """Whether the `hook_*` methods work; shown in the device's status."""
        raise NotImplementedError

    def statistics(self) -> Statistics:
        """Memory and population at this moment."""
        raise NotImplementedError

    # -- handles -------------------------------------------------------------------------------------------------

    def destroy(self, key: Handle) -> None:
        """Destroy a key; wiped at once, or when the last operation in flight on it ends."""
        raise NotImplementedError

    def destroy_group(
        self, *, function: int | None = None, scope: Scope | None = None, session: int | None = None
    ) -> int:
        """Destroy every key whose owner matches all given tags; returns how many. Without tags: all keys."""
        raise NotImplementedError

    def set_owner(self, key: Handle, owner: Owner) -> None:
        """Give a key to another owner, e.g. a decrypted PIN to the partition once it is accepted."""
        raise NotImplementedError

    def kind(self, key: Handle) -> Kind:
        """What the handle refers to."""
        raise NotImplementedError

    def size(self, key: Handle) -> int:
        """Bytes of a secret, coordinate size of an EC key, modulus length of an RSA key."""
        raise NotImplementedError

    # -- secrets -------------------------------------------------------------------------------------------------

    def random(self, length: int) -> bytes:
        """Public random bytes (nonces, IVs, serial numbers), 0..65536."""
        raise NotImplementedError

    def generate_secret(self, length: int, owner: Owner) -> Handle:
        """A fresh random secret of 1..4096 bytes: AES and HMAC keys, masking-key seeds, device secrets."""
        raise NotImplementedError

    def import_secret(self, value: bytes, owner: Owner) -> Handle:
        """Copy bytes that the wire delivered in clear (BK3, hook imports) into the store; 1..4096 bytes."""
        raise NotImplementedError

    def secrets_equal(self, first: Handle, second: Handle) -> bool:
        """Constant-time comparison of two secrets; different lengths are unequal."""
        raise NotImplementedError

    def is_zero(self, key: Handle) -> bool:
        """Whether every byte of a secret is 0, in constant time."""
        raise NotImplementedError

    # -- elliptic curves (FIPS 186-5, SP 800-56A) ----------------------------------------------------------------

    def ec_generate(self, curve: Curve, owner: Owner) -> Handle:
        """A random private key."""
        raise NotImplementedError

    def ec_derive(self, curve: Curve, key: Handle, label: bytes, context: Sequence[Part], owner: Owner) -> Handle:
        """A private key determined by a secret.

        KBKDF (HMAC-SHA-384) of order length + 64 bits, reduced as in FIPS 186-5 A.2.1.
        """
        raise NotImplementedError

    def ec_import_scalar(self, curve: Curve, scalar: Handle, owner: Owner) -> Handle:
        """The private key with the given big-endian scalar. Raises `KeyStructureError` unless 0 < d < n."""
        raise NotImplementedError

    def ec_import_der(self, der: Handle, owner: Owner) -> Handle:
        """Import PKCS#8 (id-ecPublicKey, named curve) held in a secret (spec 05 §12.4).

        The inner SEC 1 key must carry its public key and no parameters. Raises `DecodeError` for any other form and
        for other curves, `KeyStructureError` unless 0 < d < n and d*G is the public key.
        """
        raise NotImplementedError

    def ec_curve(self, key: Handle) -> Curve:
        """The curve of a private key."""
        raise NotImplementedError

    def ec_public(self, key: Handle) -> bytes:
        """The public point, `04 || X || Y`."""
        raise NotImplementedError

    def ec_check_point(self, curve: Curve, point: bytes) -> None:
        """Full public-key validation of a point.

        In this order: `PointAtInfinityError` (the encoding `00`), `LengthError` (not `04` and two coordinates),
        `PointRangeError`, `PointNotOnCurveError`.
        """
        raise NotImplementedError

    def ec_pairwise_test(self, key: Handle, test: PairwiseTest) -> None:
        """SIGN: sign and verify; AGREE: ECDH with an ephemeral key from both sides. Raises `PairwiseTestError`."""
        raise NotImplementedError

    def ec_sign(self, key: Handle, digest: bytes) -> bytes:
        """ECDSA over a digest of any length 0..96, truncated to its leftmost order-length bits (FIPS 186-5 6.4.1)."""
        raise NotImplementedError

    def ec_verify(self, curve: Curve, point: bytes, digest: bytes, signature: bytes) -> bool:
        """ECDSA verification; False for a bad signature, also one of wrong length. Raises as `ec_check_point`."""
        raise NotImplementedError

    def ec_agree(self, key: Handle, peer: bytes, owner: Owner) -> Handle:
        """ECDH: the x coordinate, full coordinate size, as a new secret. Raises as `ec_check_point`."""
        raise NotImplementedError

    # -- RSA (RFC 8017) ------------------------------------------------------------------------------------------

    def rsa_generate(self, bits: int, owner: Owner) -> Handle:
        """A fresh non-CRT-stored private key of 2048, 3072 or 4096 bits, e = 65537. Takes a fraction of a second."""
        raise NotImplementedError

    def rsa_import_der(self, der: Handle, crt: bool, owner: Owner) -> Handle:
        """Import PKCS#8 (rsaEncryption, NULL parameters) held in a secret, as CRT key or as (n, e, d) alone.

        Raises `DecodeError` (form, or numbers that are no RSA key), `KeySizeError` (modulus not 2048/3072/4096).
        """
        raise NotImplementedError

    def rsa_public(self, key: Handle) -> RsaPublic:
        """Modulus and exponent."""
        raise NotImplementedError

    def rsa_private(self, key: Handle, data: bytes) -> bytes:
        """Raw x = y^d mod n with blinding.

        Raises `LengthError` unless `data` has the modulus length, then `RangeError` unless 1 < y < n-1.
        """
        raise NotImplementedError

    def rsa_pairwise_test(self, key: Handle, test: PairwiseTest) -> None:
        """SIGN or ENCRYPT: private and public operation undo each other. Raises `PairwiseTestError`."""
        raise NotImplementedError

    def rsa_oaep_decrypt(self, key: Handle, digest: Hash, ciphertext: bytes, owner: Owner) -> Handle:
        """OAEP with MGF1 of the same hash and an empty label, into a new secret.

        Raises `LengthError`, `RangeError` (as `rsa_private`), `OaepError`; an empty message is an `OaepError` too.
        """
        raise NotImplementedError

    # -- symmetric algorithms ------------------------------------------------------------------------------------

    def aes_kwp_unwrap(self, kek: Handle, wrapped: bytes, owner: Owner) -> Handle:
        """RFC 5649 unwrap into a new secret. Raises `KeySizeError` (KEK not 16/24/32 bytes), `KeyUnwrapError`."""
        raise NotImplementedError

    def aes_cbc(self, key: Handle, *, encrypt: bool, iv: bytes, data: bytes) -> bytes:
        """AES-CBC without padding; `data` a non-empty multiple of 16 bytes, `iv` 16. Raises `KeySizeError`."""
        raise NotImplementedError

    def hmac(self, key: Handle, digest: Hash, data: bytes) -> bytes:
        """HMAC with the whole secret as key (FIPS 198-1)."""
        raise NotImplementedError

    def digest(self, digest: Hash, data: bytes) -> bytes:
        """Plain hash of public data, by the device's own implementation."""
        raise NotImplementedError

    # -- derivation ----------------------------------------------------------------------------------------------

    def hkdf(self, key: Handle, digest: Hash, salt: bytes | None, info: bytes, length: int, owner: Owner) -> Handle:
        """RFC 5869 extract and expand; `salt` None is the RFC default. `length` 1..255 * hash size."""
        raise NotImplementedError

    def kbkdf(
        self,
        key: Handle,
        digest: Hash,
        label: bytes,
        context: Sequence[Part],
        length: int,
        owner: Owner,
        *,
        key_offset: int = 0,
    ) -> Handle:
        """SP 800-108 counter mode with HMAC, r = 32, L of 32 bits (spec 04 §6.1, 05 §11.4).

        The key is the secret from `key_offset` on (32: the HMAC half of an 80-byte masking key). `context` parts are
        concatenated; they may be secrets (BKS1, BKS2, a session seed).
        """
        raise NotImplementedError

    # -- masked keys (spec 04 §7, 03 §12) ------------------------------------------------------------------------

    def masked_plaintext_size(self, key: Handle) -> int:
        """Bytes of the key as serialised into a masked blob, before fill (spec 05 §5.6, FW column).

        Secrets: their length; EC: d, x, y little-endian (96, 144, 204); RSA: d, n, e (516, 772, 1028), with CRT
        p, q, dp, dq, n, n1q, n2p, e (1284, 1924, 2564).
        """
        raise NotImplementedError

    def mask(self, key: Handle, masking_key: Handle, prefix: bytes, iv: bytes, encrypted_size: int) -> bytes:
        """Seal a key: `prefix || AES-256-CBC(masking_key[0:32], iv, plaintext || zeros) || HMAC-SHA-384`.

        `prefix` is everything before the encrypted key (headers, IV, metadata, pads); `encrypted_size` is a multiple
        of 16, at least the plaintext size and at most 31 bytes more. The tag covers all preceding bytes. Raises
        `KeySizeError` unless the masking key has 80 bytes.
        """
        raise NotImplementedError

    def verify_masked(self, masking_key: Handle, blob: bytes) -> bool:
        """Whether the last 48 bytes are the tag over the bytes before them; False too if the key is not 80 bytes."""
        raise NotImplementedError

    def unmask_secret(
        self, masking_key: Handle, blob: bytes, iv: bytes, offset: int, encrypted_size: int, length: int, owner: Owner
    ) -> Handle:
        """Verify a blob and decrypt `blob[offset:offset+encrypted_size]`; its first `length` bytes become a secret.

        Raises `AuthenticationError` (tag), `DecodeError` (sizes that do not fit).
        """
        raise NotImplementedError

    def unmask_ec(
        self, masking_key: Handle, blob: bytes, iv: bytes, offset: int, encrypted_size: int, curve: Curve, owner: Owner
    ) -> Handle:
        """As `unmask_secret`, for an EC key. Also `DecodeError` if the plaintext is no key of the curve."""
        raise NotImplementedError

    def unmask_rsa(
        self,
        masking_key: Handle,
        blob: bytes,
        iv: bytes,
        offset: int,
        encrypted_size: int,
        bits: int,
        crt: bool,
        owner: Owner,
    ) -> Handle:
        """As `unmask_secret`, for an RSA key. Also `DecodeError` if the plaintext is no RSA key of the size."""
        raise NotImplementedError

    # -- credentials (spec 04 §5) --------------------------------------------------------------------------------

    def credential_channel(self, key: Handle, peer: bytes, nonce: bytes, owner: Owner) -> Handle:
        """ECDH P-384, then HKDF-SHA-384(salt empty, info = nonce): 80 bytes AES_K || MAC_K, as a new secret.

        Raises as `ec_check_point`.
        """
        raise NotImplementedError

    def credential_verify(self, channel: Handle, message: bytes, tag: bytes) -> bool:
        """Whether `tag` (48 bytes) is HMAC-SHA-384(MAC_K, message), in constant time."""
        raise NotImplementedError

    def credential_decrypt(self, channel: Handle, iv: bytes, ciphertext: bytes, owner: Owner) -> Credential:
        """AES-256-CBC under AES_K of 16 (PIN), 32 (id, PIN) or 80 bytes (id, PIN, seed), each part a new secret.

        An id may be read back with `credential_id`, for attestation reports carry it; PIN and seed cannot.
        """
        raise NotImplementedError

    def credential_id(self, key: Handle) -> bytes:
        """The 16 bytes of a credential id. Raises `WrongKindError` for any other secret."""
        raise NotImplementedError

    def credential_check(self, stored: Credential, presented: Credential) -> CredentialCheck:
        """Judge a presented id and PIN against the stored ones, in constant time; seeds are not looked at."""
        raise NotImplementedError

    # -- state at rest -------------------------------------------------------------------------------------------

    def seal(self, key: Handle, sealing_key: Handle, associated_data: bytes) -> bytes:
        """Encrypt a key of any kind for storage: AES-256-GCM under a 32-byte secret, random 96-bit nonce.

        The blob carries the kind; the owner is not stored.
        """
        raise NotImplementedError

    def unseal(self, blob: bytes, sealing_key: Handle, associated_data: bytes, owner: Owner) -> Handle:
        """Undo `seal`. Raises `AuthenticationError`, `DecodeError`."""
        raise NotImplementedError

    def create_device_secret(self, path: str, owner: Owner) -> Handle:
        """Make a 48-byte device-unique secret and write it to a new file of mode 0600, atomically and durably.

        Raises `StateFileError`; `FileExistsError` if the file is there.
        """
        raise NotImplementedError

    def load_device_secret(self, path: str, owner: Owner) -> Handle:
        """Read the secret back. Raises `FileNotFoundError`, `StatePermissionError`, `StateFileError`."""
        raise NotImplementedError

    # -- fast path -----------------------------------------------------------------------------------------------

    def bulk_table(self, function: int) -> BulkTable:
        """A new, empty table of fast-path keys for a function."""
        raise NotImplementedError

    # -- self-tests, faults, hooks -------------------------------------------------------------------------------

    def self_test_names(self) -> tuple[str, ...]:
        """The known-answer tests, in the order in which they run."""
        raise NotImplementedError

    def self_test(self, name: str) -> bool:
        """Run one known-answer test natively; False if the answer is wrong."""
        raise NotImplementedError

    def set_fault(self, name: str, count: int) -> None:
        """Make the next `count` runs (-1: all) of a test fail: a self-test name, `pct-ec` or `pct-rsa`.

        Raises `HooksDisabledError` unless the store was opened with `fault_injection`.
        """
        raise NotImplementedError

    def hook_push_random(self, value: bytes) -> None:
        """Queue bytes that the next draws of randomness return, one queued value per draw of exactly its length.

        A draw is one call of `random` or `generate_secret`, the scalar of one `ec_generate`, the nonce of one `seal`;
        an empty queue gives true randomness. A draw of another length raises `ArgumentError`.
        Raises `HooksDisabledError` without `validation_hooks`.
        """
        raise NotImplementedError

    def hook_reveal(self, key: Handle) -> bytes:
        """A key in the clear, serialised as for masking. Raises `HooksDisabledError` without `validation_hooks`."""
        raise NotImplementedError

    def hook_aes_ecb_decrypt(self, key: Handle, data: bytes) -> bytes:
        """AES-ECB decryption of whole blocks. Raises `HooksDisabledError` without `validation_hooks`."""
        raise NotImplementedError
