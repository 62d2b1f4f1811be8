# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operations of a session that use keys: sign, decrypt, authenticate, derive (spec 05 §7, §9-§12)."""

from ihsm.arguments import checked, octets
from ihsm.ddi import calls
from ihsm.ddi.call import Procedure, ask
from ihsm.ddi.channel import InSession
from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.wrapping import HASHES
from ihsm.errors import ArgumentError
from ihsm.procedures import operation
from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi import AesOp, HashAlgorithm, KeyType, RsaOpType
from ihsm_abi.ddi.limits import AES_CBC_MAX_BYTES


class CryptoOperations(InSession):
    """Cryptography with keys of the device; every method raises StatusError with the device's status."""

    @operation
    @checked
    def ecc_sign(self, key: Key, digest: bytes, hash_algorithm: HashAlgorithm) -> Procedure[bytes]:
        """ECDSA over a digest that `hash_algorithm` made; r then s, big-endian, each as long as a coordinate.

        The message itself is hashed by the caller: the device never does, and signs whatever it is given (spec 05 §9).

        Raises:
            ArgumentError: bytes that are no digest of this hash.
        """
        size = HASHES[hash_algorithm]().digest_size
        if len(digest) != size:
            raise ArgumentError("ecc_sign", "digest", f"{len(digest)} bytes, a {hash_algorithm.name} digest has {size}")
        return ask(calls.ecc_sign(key, digest, hash_algorithm))

    @operation
    @checked
    def ecc_sign_number(self, key: Key, number: bytes, label: HashAlgorithm) -> Procedure[bytes]:
        """ECDSA over a number given as 1 to 96 bytes, big-endian, whatever made it; otherwise as `ecc_sign`.

        Nothing ties a signature over a number that is no digest to a message: who can choose the number can choose what
        the signature seems to be about. `label` is the hash that the device is told of; it looks at the curves
        allowed with it where FIPS-approved mode is on, and at nothing else (spec 05 §9).
        """
        return ask(calls.ecc_sign(key, number, label))

    @operation
    @checked
    def rsa_mod_exp(self, key: Key, y: bytes, op_type: RsaOpType) -> Procedure[bytes]:
        """Raw RSA private operation y^d mod n, big-endian; `y` is as long as the modulus. Padding is the caller's."""
        return ask(calls.rsa_mod_exp(key, y, op_type))

    @operation
    @checked
    def aes_cbc(self, key: Key, op: AesOp, data: bytes, iv: bytes) -> Procedure[tuple[bytes, bytes]]:
        """AES-CBC without padding over any number of blocks, 1024 bytes a command.

        Args:
            key: AES-128, -192 or -256 key.
            op: Direction.
            data: Multiple of 16 bytes, not empty.
            iv: 16 bytes.

        Returns:
            The result, as long as `data`, and the IV that continues the chain.
        """
        iv = octets("aes_cbc", "IV", iv, AES_BLOCK_BYTES)
        parts = []
        for start in range(0, max(len(data), 1), AES_CBC_MAX_BYTES):
            part, iv = yield from ask(calls.aes_cbc(key, op, data[start : start + AES_CBC_MAX_BYTES], iv))
            parts.append(part)
        return b"".join(parts), iv

    @operation
    @checked
    def hmac(self, key: Key, message: bytes) -> Procedure[bytes]:
        """HMAC of up to 1024 bytes; the key's type is the hash, the tag has its full 32, 48 or 64 bytes."""
        return ask(calls.hmac(key, message))

    @operation
    @checked
    def ecdh(self, key: Key, peer_spki: bytes, key_type: KeyType, request: KeyRequest) -> Procedure[Key]:
        """ECDH with a peer's DER SubjectPublicKeyInfo; the shared secret becomes a key of `key_type` (Secret...)."""
        return ask(calls.ecdh(key, peer_spki, key_type, request))

    @operation
    @checked
    def hkdf(
        self,
        secret: Key,
        hash_algorithm: HashAlgorithm,
        key_type: KeyType,
        request: KeyRequest,
        *,
        salt: bytes | None = None,
        info: bytes | None = None,
        key_length: int | None = None,
    ) -> Procedure[Key]:
        """Derive a key by HKDF (RFC 5869); `key_length` in bytes only for variable-length HMAC keys."""
        return ask(calls.hkdf(secret, hash_algorithm, key_type, request, salt=salt, info=info, key_length=key_length))

    @operation
    @checked
    def kbkdf(
        self,
        secret: Key,
        hash_algorithm: HashAlgorithm,
        key_type: KeyType,
        request: KeyRequest,
        *,
        label: bytes | None = None,
        context: bytes | None = None,
        key_length: int | None = None,
    ) -> Procedure[Key]:
        """Derive a key by KBKDF in counter mode with HMAC (NIST SP 800-108); `key_length` as in `hkdf`."""
        return ask(
            calls.kbkdf(secret, hash_algorithm, key_type, request, label=label, context=context, key_length=key_length)
        )
