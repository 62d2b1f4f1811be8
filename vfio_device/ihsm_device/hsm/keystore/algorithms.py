# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The key store's algorithms: elliptic curves, RSA, symmetric ciphers, MACs, derivation.

The conventions of `hsm.keystore` hold here too: big-endian numbers, `04 || X || Y` points, common exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_device._native import ffi, lib
from ihsm_device.hsm.keystore.native import (
    check,
    check_import,
    new_handle,
    pack_owner,
    pack_parts,
    require_length,
    taken,
)
from ihsm_device.hsm.keystore.types import (
    ArgumentError,
    Curve,
    Handle,
    Hash,
    Kind,
    Owner,
    PairwiseTest,
    Part,
    RsaPublic,
    Withheld,
    WrongKindError,
)

GCM_TAG_BYTES: Final = 16
NOTHING_WITHHELD: Final = Withheld(b"", b"", 0, 0)
_MAX_DIGEST_BYTES: Final = 64
_MAX_POINT_BYTES: Final = 1 + 2 * Curve.P521.size_bytes
_MAX_RSA_BYTES: Final = 512


class Algorithms:
    """Operations that need nothing but handles. The part of `KeyStore` that is plain cryptography."""

    def _describe(self, key: Handle) -> tuple[int, int, int]:
        """Kind, size in bytes, curve."""
        kind, size, curve = ffi.new("int *"), ffi.new("size_t *"), ffi.new("int *")
        check(lib.ks_describe(key, kind, size, curve))
        return kind[0], size[0], curve[0]

    # -- elliptic curves (FIPS 186-5, SP 800-56A) ----------------------------------------------------------------

    def ec_generate(self, curve: Curve, owner: Owner) -> Handle:
        """A random private key."""
        out = new_handle()
        return taken(lib.ks_ec_generate(curve, pack_owner(owner), out), out)

    def ec_derive(self, curve: Curve, key: Handle, label: bytes, context: Sequence[Part], owner: Owner) -> Handle:
        """A private key determined by a secret: FIPS 186-5 A.2.2 over candidates from KBKDF (HMAC-SHA-384).

        At most 8 context parts; the store appends a candidate counter.
        """
        out, (parts, _alive) = new_handle(), pack_parts(context)
        status = lib.ks_ec_derive(curve, key, label, len(label), parts, len(context), pack_owner(owner), out)
        return taken(status, out)

    def ec_import_scalar(self, curve: Curve, scalar: Handle, owner: Owner) -> Handle:
        """The private key with the given big-endian scalar. Raises `KeyStructureError` unless 0 < d < n."""
        out = new_handle()
        return taken(lib.ks_ec_import_scalar(curve, scalar, pack_owner(owner), out), out)

    def ec_import_der(self, der: Handle, owner: Owner) -> Handle:
        """Import PKCS#8 (id-ecPublicKey, named curve) held in a secret (spec 05 §12.4).

        The inner SEC 1 key must carry its public key and no parameters. Raises `DecodeError` for any other form and
        for other curves, `KeyStructureError` unless 0 < d < n and d*G is the public key.
        """
        out, size = new_handle(), ffi.new("size_t *")
        check_import(lib.ks_ec_import_der(der, pack_owner(owner), out, size), size[0])
        return Handle(out[0])

    def ec_curve(self, key: Handle) -> Curve:
        """The curve of a private key."""
        kind, _, curve = self._describe(key)
        if kind != Kind.EC:
            raise WrongKindError("not an EC key")
        return Curve(curve)

    def ec_public(self, key: Handle) -> bytes:
        """The public point, `04 || X || Y`."""
        out, size = ffi.new("uint8_t[]", _MAX_POINT_BYTES), ffi.new("size_t *")
        check(lib.ks_ec_public(key, out, size))
        return bytes(ffi.buffer(out, size[0]))

    def ec_check_point(self, curve: Curve, point: bytes) -> None:
        """Full public-key validation of a point.

        In this order: `PointAtInfinityError` (the encoding `00`), `LengthError` (not `04` and two coordinates),
        `PointRangeError`, `PointNotOnCurveError`.
        """
        check(lib.ks_ec_check_point(curve, point, len(point)))

    def ec_pairwise_test(self, key: Handle, test: PairwiseTest) -> None:
        """SIGN: sign and verify; AGREE: ECDH with an ephemeral key from both sides. Raises `PairwiseTestError`."""
        if test == PairwiseTest.ENCRYPT:
            raise ArgumentError("an EC key does not encrypt")
        check(lib.ks_ec_pairwise(key, test == PairwiseTest.AGREE))

    def ec_sign(self, key: Handle, digest: bytes) -> bytes:
        """ECDSA over a digest of any length 0..96, truncated to its leftmost order-length bits (FIPS 186-5 6.4.1)."""
        out, size = ffi.new("uint8_t[]", _MAX_POINT_BYTES), ffi.new("size_t *")
        check(lib.ks_ec_sign(key, digest, len(digest), out, size))
        return bytes(ffi.buffer(out, size[0]))

    def ec_verify(self, curve: Curve, point: bytes, digest: bytes, signature: bytes) -> bool:
        """ECDSA verification; False for a bad signature, also one of wrong length. Raises as `ec_check_point`."""
        valid = ffi.new("int *")
        check(lib.ks_ec_verify(curve, point, len(point), digest, len(digest), signature, len(signature), valid))
        return bool(valid[0])

    def ec_agree(self, key: Handle, peer: bytes, owner: Owner) -> Handle:
        """ECDH: the x coordinate, full coordinate size, as a new secret. Raises as `ec_check_point`."""
        out = new_handle()
        return taken(lib.ks_ec_agree(key, peer, len(peer), pack_owner(owner), out), out)

    # -- RSA (RFC 8017) ------------------------------------------------------------------------------------------

    def rsa_generate(self, bits: int, owner: Owner, *, crt: bool = False) -> Handle:
        """A fresh key of 2048, 3072 or 4096 bits, e = 65537, with or without CRT. Takes a good part of a second."""
        out = new_handle()
        return taken(lib.ks_rsa_generate(bits, crt, pack_owner(owner), out), out)

    def rsa_import_der(self, der: Handle, crt: bool, owner: Owner) -> Handle:
        """Import PKCS#8 (rsaEncryption, NULL parameters) held in a secret, as CRT key or as (n, e, d) alone.

        Raises `DecodeError` (form), `KeySizeError` (modulus not 2048/3072/4096), `CryptoFailureError` (no CRT values
        exist for the primes, or one is longer than half the modulus), `KeyStructureError` (numbers that contradict each
        other; without CRT a wrong d shows only in `rsa_pairwise_test`).
        """
        out, size = new_handle(), ffi.new("size_t *")
        check_import(lib.ks_rsa_import_der(der, crt, pack_owner(owner), out, size), size[0])
        return Handle(out[0])

    def rsa_public(self, key: Handle) -> RsaPublic:
        """Modulus and exponent."""
        n, e = ffi.new("uint8_t[]", _MAX_RSA_BYTES), ffi.new("uint8_t[]", _MAX_RSA_BYTES)
        n_size, e_size = ffi.new("size_t *"), ffi.new("size_t *")
        check(lib.ks_rsa_public(key, n, n_size, e, e_size))
        return RsaPublic(bytes(ffi.buffer(n, n_size[0])), bytes(ffi.buffer(e, e_size[0])))

    def rsa_private(self, key: Handle, data: bytes) -> bytes:
        """Raw x = y^d mod n with blinding.

        Raises `LengthError` unless `data` has the modulus length, then `RangeError` unless 1 < y < n-1.
        """
        out = ffi.new("uint8_t[]", _MAX_RSA_BYTES)
        check(lib.ks_rsa_private(key, data, len(data), out))
        return bytes(ffi.buffer(out, len(data)))

    def rsa_pairwise_test(self, key: Handle, test: PairwiseTest) -> None:
        """SIGN or ENCRYPT: private and public operation undo each other. Raises `PairwiseTestError`."""
        if test == PairwiseTest.AGREE:
            raise ArgumentError("an RSA key does not agree")
        check(lib.ks_rsa_pairwise(key))

    def rsa_oaep_decrypt(self, key: Handle, digest: Hash, ciphertext: bytes, owner: Owner) -> Handle:
        """OAEP with MGF1 of the same hash and an empty label, into a new secret.

        Raises `LengthError`, `RangeError` (as `rsa_private`), `OaepError`; an empty message is an `OaepError` too.
        """
        out = new_handle()
        return taken(lib.ks_rsa_oaep_decrypt(key, digest, ciphertext, len(ciphertext), pack_owner(owner), out), out)

    # -- symmetric algorithms ------------------------------------------------------------------------------------

    def aes_kwp_unwrap(self, kek: Handle, wrapped: bytes, owner: Owner) -> Handle:
        """RFC 5649 unwrap into a new secret. Raises `KeySizeError` (KEK not 16/24/32 bytes), `KeyUnwrapError`."""
        out = new_handle()
        return taken(lib.ks_aes_kwp_unwrap(kek, wrapped, len(wrapped), pack_owner(owner), out), out)

    def aes_cbc(self, key: Handle, *, encrypt: bool, iv: bytes, data: bytes) -> bytes:
        """AES-CBC without padding; `data` a non-empty multiple of 16 bytes, `iv` 16. Raises `KeySizeError`."""
        require_length("iv", iv, AES_BLOCK_BYTES)
        out = ffi.new("uint8_t[]", max(len(data), 1))
        check(lib.ks_aes_cbc(key, encrypt, iv, data, len(data), out))
        return bytes(ffi.buffer(out, len(data)))

    def hmac(self, key: Handle, digest: Hash, data: bytes) -> bytes:
        """HMAC with the whole secret as key (FIPS 198-1)."""
        out = ffi.new("uint8_t[]", _MAX_DIGEST_BYTES)
        check(lib.ks_hmac(key, digest, data, len(data), out))
        return bytes(ffi.buffer(out, digest.size_bytes))

    def hmac_verify(self, key: Handle, digest: Hash, data: bytes, tag: bytes) -> bool:
        """Whether `tag` is the HMAC, in constant time; False too for another length."""
        valid = ffi.new("int *")
        check(lib.ks_hmac_verify(key, digest, data, len(data), tag, len(tag), valid))
        return bool(valid[0])

    def record_seal(self, key: Handle, iv: Handle, sequence: int, associated_data: bytes, data: bytes) -> bytes:
        """AES-256-GCM of a record of a secured session (DMTF DSP0277 1.1): ciphertext and tag.

        The nonce is `iv`, a secret of 12 bytes, with the record's number, 0..2^64 - 1 and little-endian, put on it bit
        by bit. Raises `KeySizeError` for keys and IVs of other lengths.
        """
        out = ffi.new("uint8_t[]", len(data) + GCM_TAG_BYTES)
        check(lib.ks_record_seal(key, iv, sequence, associated_data, len(associated_data), data, len(data), out))
        return bytes(ffi.buffer(out))

    def record_open(
        self,
        key: Handle,
        iv: Handle,
        sequence: int,
        associated_data: bytes,
        data: bytes,
        withheld: Withheld = NOTHING_WITHHELD,
    ) -> bytes:
        """Undo `record_seal`, but for a secret that is `withheld`. Raises `AuthenticationError`."""
        out = ffi.new("uint8_t[]", max(len(data), 1))
        value, mask = (ffi.from_buffer("uint8_t[]", part) for part in (withheld.value, withheld.mask))
        secret = ffi.new("ks_withheld *", (value, mask, len(value), withheld.start, withheld.end))
        check(
            lib.ks_record_open(key, iv, sequence, associated_data, len(associated_data), data, len(data), secret, out)
        )
        return bytes(ffi.buffer(out, len(data) - GCM_TAG_BYTES))

    def digest(self, digest: Hash, data: bytes) -> bytes:
        """Plain hash of public data, by the device's own implementation."""
        out = ffi.new("uint8_t[]", _MAX_DIGEST_BYTES)
        check(lib.ks_digest(digest, data, len(data), out))
        return bytes(ffi.buffer(out, digest.size_bytes))

    # -- derivation ----------------------------------------------------------------------------------------------

    def hkdf(self, key: Handle, digest: Hash, salt: bytes | None, info: bytes, length: int, owner: Owner) -> Handle:
        """RFC 5869 extract and expand; `salt` None is the RFC default. `length` 1..255 * hash size."""
        out, salt = new_handle(), salt or b""
        status = lib.ks_hkdf(key, digest, salt, len(salt), info, len(info), length, pack_owner(owner), out)
        return taken(status, out)

    def hkdf_extract(self, digest: Hash, salt: Part, material: Part, owner: Owner) -> Handle:
        """The first step of RFC 5869 alone: a new secret of the hash's length."""
        out, (parts, _alive) = new_handle(), pack_parts((salt, material))
        return taken(lib.ks_hkdf_extract(digest, parts, parts + 1, pack_owner(owner), out), out)

    def hkdf_expand(self, key: Handle, digest: Hash, info: bytes, length: int, owner: Owner) -> Handle:
        """The second step of RFC 5869 alone. `length` 1..255 * hash size."""
        out = new_handle()
        return taken(lib.ks_hkdf_expand(key, digest, info, len(info), length, pack_owner(owner), out), out)

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
        out, (parts, _alive) = new_handle(), pack_parts(context)
        status = lib.ks_kbkdf(
            key, key_offset, digest, label, len(label), parts, len(context), length, pack_owner(owner), out
        )
        return taken(status, out)
