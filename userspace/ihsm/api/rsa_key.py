# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA private keys in the device, as pyca/cryptography's private keys."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, NoReturn, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding as paddings
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    PrivateFormat,
    load_der_public_key,
)

from ihsm.api import rsa_padding
from ihsm.api.digests import digest_of
from ihsm.api.errors import InvalidCiphertextError, KeyNotExportableError, UnsupportedByDeviceError
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import DeviceKey, Handle
from ihsm.api.kinds import Usage
from ihsm.api.numbers import WithheldRsaNumbers
from ihsm.api.steps import Ask, Procedure
from ihsm.arguments import Octets, octets
from ihsm.ddi import Key, calls
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import RsaOpType

_REJECTION_KEY: Final = secrets.token_bytes(32)
"""Makes what invalid PKCS#1 v1.5 ciphertexts decrypt to unpredictable."""

SignatureAlgorithm = hashes.HashAlgorithm | Prehashed | NoDigestInfo


class RsaPrivateKey(DeviceKey, rsa.RSAPrivateKey):
    """An RSA key of 2048, 3072 or 4096 bits whose private half is in the device alone.

    The device makes no RSA keys: the key was made on a host and imported (`facts.origin`).
    """

    def __init__(self, handle: Handle, facts: KeyFacts) -> None:
        """Made by `Hsm`."""
        super().__init__(handle, facts)
        assert facts.public is not None
        self._public = cast(rsa.RSAPublicKey, load_der_public_key(facts.public))

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        """The public half."""
        return self._public

    def sign(self, data: Octets, padding: paddings.AsymmetricPadding, algorithm: SignatureAlgorithm) -> bytes:
        """RSASSA-PKCS1-v1_5 or RSASSA-PSS (RFC 8017 §8), as long as the modulus.

        Args:
            data: message; a digest with `Prehashed`; with `NoDigestInfo` and PKCS1v15 what is signed as it is.
            padding: PKCS1v15, or PSS with a salt of any length that fits, DIGEST_LENGTH or MAX_LENGTH.
            algorithm: hash.

        Raises:
            ArgumentError: the key was not made to sign, the padding does not fit, or Prehashed data are no digest.
            ArgumentTypeError, UnsupportedByDeviceError: another padding or algorithm; hashes are SHA-1, SHA-2, SHA-3.
        """
        encoded = self._encoded(data, padding, algorithm)
        return self._handle.run("sign", Usage.SIGN, lambda key: _private(key, encoded, RsaOpType.Sign))

    async def sign_async(
        self, data: Octets, padding: paddings.AsymmetricPadding, algorithm: SignatureAlgorithm
    ) -> bytes:
        """The same, awaited."""
        encoded = self._encoded(data, padding, algorithm)
        return await self._handle.run_async("sign", Usage.SIGN, lambda key: _private(key, encoded, RsaOpType.Sign))

    def decrypt(self, ciphertext: Octets, padding: paddings.AsymmetricPadding) -> bytes:
        """RSAES-OAEP with any label, or RSAES-PKCS1-v1_5 (RFC 8017 §7).

        A ciphertext that is no PKCS#1 v1.5 encryption decrypts to random bytes of a random length, always the same
        while this process lives: an error would be an oracle (RFC 8017 §7.2.2 note).

        Raises:
            InvalidCiphertextError: with OAEP, one that is none for this key and label.
            ArgumentError: the key was not made to decrypt, or the ciphertext has not the length of the modulus.
            ArgumentTypeError, UnsupportedByDeviceError: another padding.
        """
        number = self._ciphertext(ciphertext, padding)
        encoded = self._handle.run("decrypt", Usage.DECRYPT, lambda key: self._decrypted(key, number))
        return self._decoded(encoded, number, padding)

    async def decrypt_async(self, ciphertext: Octets, padding: paddings.AsymmetricPadding) -> bytes:
        """The same, awaited."""
        number = self._ciphertext(ciphertext, padding)
        encoded = await self._handle.run_async("decrypt", Usage.DECRYPT, lambda key: self._decrypted(key, number))
        return self._decoded(encoded, number, padding)

    def _encoded(self, data: Octets, padding: paddings.AsymmetricPadding, algorithm: SignatureAlgorithm) -> bytes:
        size = self.key_size // 8
        if isinstance(padding, paddings.PKCS1v15):
            if isinstance(algorithm, NoDigestInfo):
                return rsa_padding.emsa_pkcs1("sign", octets("sign", "data", data), None, size)
            digest, made_by = digest_of("sign", data, algorithm)
            return rsa_padding.emsa_pkcs1("sign", digest, made_by, size)
        if isinstance(padding, paddings.PSS):
            if isinstance(algorithm, NoDigestInfo):
                raise ArgumentTypeError("sign", "algorithm", "NoDigestInfo belongs to PKCS1v15 alone")
            digest, made_by = digest_of("sign", data, algorithm)
            salt_bytes, mask_hash = _salt_bytes(padding, made_by), _mask_hash(padding.mgf)
            rsa_padding.require_known("sign", made_by, mask_hash)
            return rsa_padding.emsa_pss("sign", digest, made_by, mask_hash, salt_bytes, self.key_size)
        raise _unknown_padding("sign", padding, "PKCS1v15 or PSS")

    def _ciphertext(self, ciphertext: Octets, padding: paddings.AsymmetricPadding) -> bytes:
        data = octets("decrypt", "ciphertext", ciphertext)
        if not isinstance(padding, paddings.OAEP | paddings.PKCS1v15):
            raise _unknown_padding("decrypt", padding, "OAEP or PKCS1v15")
        if isinstance(padding, paddings.OAEP):
            rsa_padding.require_known("decrypt", padding.algorithm, _mask_hash(padding.mgf))
        if len(data) != self.key_size // 8:
            raise ArgumentError("decrypt", "ciphertext", f"{len(data)} bytes, must be {self.key_size // 8}")
        if int.from_bytes(data, "big") >= self._public.public_numbers().n:
            raise InvalidCiphertextError("decrypt: the ciphertext is not one of this key")
        return data

    def _decrypted(self, key: Key, number: bytes) -> Procedure[bytes]:
        """Encoded message; three numbers, of which none encrypts a message, the device refuses (spec 05 §12.2)."""
        if int.from_bytes(number, "big") in (0, 1, self._public.public_numbers().n - 1):
            return number  # each to any odd power is itself
        return (yield from _private(key, number, RsaOpType.Decrypt))

    def _decoded(self, encoded: bytes, ciphertext: bytes, padding: paddings.AsymmetricPadding) -> bytes:
        if isinstance(padding, paddings.OAEP):
            label = padding._label or b""  # pyca has no public name for it
            message = rsa_padding.eme_oaep(encoded, padding.algorithm, _mask_hash(padding.mgf), label)
            if message is None:
                raise InvalidCiphertextError("decrypt: the ciphertext is not one of this key and label")
            return message
        modulus = self._public.public_numbers().n.to_bytes(self.key_size // 8, "big")
        substitute = hmac.digest(_REJECTION_KEY, hashlib.sha256(modulus).digest() + ciphertext, "sha256")
        return rsa_padding.eme_pkcs1(encoded, substitute)

    def private_numbers(self) -> rsa.RSAPrivateNumbers:
        """An object whose `public_numbers` are those of the key, and whose secrets raise KeyNotExportableError."""
        return cast(rsa.RSAPrivateNumbers, WithheldRsaNumbers(self._public.public_numbers(), self.facts.name))

    def private_bytes(
        self, encoding: Encoding, format: PrivateFormat, encryption_algorithm: KeySerializationEncryption
    ) -> NoReturn:
        """What never leaves the device; raises KeyNotExportableError, always."""
        raise KeyNotExportableError("private_bytes", f"{self.facts.name} is in the device and does not leave it")


def _private(key: Key, number: bytes, op_type: RsaOpType) -> Procedure[bytes]:
    result: bytes = yield Ask(calls.rsa_mod_exp(key, number, op_type))
    return result


def _salt_bytes(padding: paddings.PSS, algorithm: hashes.HashAlgorithm) -> int | None:
    """Length of the salt, None for as long as fits; the constants by their types, for libraries copy paddings."""
    wanted = padding._salt_length  # pyca has no public name for it
    if isinstance(wanted, int):
        return wanted
    if isinstance(wanted, type(paddings.PSS.DIGEST_LENGTH)):
        return algorithm.digest_size
    if isinstance(wanted, type(paddings.PSS.MAX_LENGTH)):
        return None
    raise ArgumentError("sign", "padding", "a salt of length AUTO is for verifying; DIGEST_LENGTH or MAX_LENGTH here")


def _mask_hash(mgf: paddings.MGF) -> hashes.HashAlgorithm:
    if not isinstance(mgf, paddings.MGF1):
        raise UnsupportedByDeviceError("padding", f"mask generation {type(mgf).__name__}; MGF1 is possible")
    return mgf._algorithm  # pyca has no public name for it


def _unknown_padding(operation: str, padding: object, possible: str) -> ArgumentTypeError | UnsupportedByDeviceError:
    if isinstance(padding, paddings.AsymmetricPadding):
        return UnsupportedByDeviceError(operation, f"padding {padding.name}; {possible} are possible")
    return ArgumentTypeError(operation, "padding", f"{type(padding).__name__}, must be {possible}")
