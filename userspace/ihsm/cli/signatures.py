# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures in the forms that shells meet: OpenSSL's, r and s alone (IEEE P1363), and compact JWS (RFC 7515)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import click
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, AsymmetricPadding, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature

from ihsm.api.errors import SignatureMismatchError
from ihsm.cli.key_records import UnsuitableKeyError
from ihsm_abi import json_text

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
HASHES: Final = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_CURVE_HASHES: Final = {256: "sha256", 384: "sha384", 521: "sha512"}
_JWS_NAMES: Final = {256: "ES256", 384: "ES384", 521: "ES512"}
"""By bits of the curve, with the hash of its size (RFC 7518 §3.4)."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a key signs."""

    hash: str
    pss: bool = False
    """RSASSA-PSS with a salt as long as the digest, else RSASSA-PKCS1-v1_5; for EC keys of no meaning."""

    @classmethod
    def of(cls, key: PublicKey, hash_name: str | None, pss: bool) -> Scheme:
        """What the options ask for; without --hash that of the curve's size, SHA-256 for RSA.

        Raises:
            UnsuitableKeyError: --pss for an EC key.
        """
        if isinstance(key, rsa.RSAPublicKey):
            return cls(hash_name or "sha256", pss)
        if pss:
            raise UnsuitableKeyError("--pss is for RSA keys, and this is an EC key")
        return cls(hash_name or _CURVE_HASHES[key.key_size])

    @property
    def algorithm(self) -> hashes.HashAlgorithm:
        """The hash."""
        return HASHES[self.hash]

    @property
    def padding(self) -> AsymmetricPadding:
        """Of RSA."""
        return PSS(MGF1(self.algorithm), PSS.DIGEST_LENGTH) if self.pss else PKCS1v15()

    def jws_name(self, key: PublicKey) -> str:
        """The algorithm of a JWS (RFC 7518 §3.1).

        Raises:
            click.UsageError: there is none for this key and hash.
        """
        if isinstance(key, rsa.RSAPublicKey):
            if self.hash == "sha1":
                raise click.UsageError("--jws: no algorithm has SHA-1")
            return f"{'PS' if self.pss else 'RS'}{self.hash.removeprefix('sha')}"
        name, needed = _JWS_NAMES[key.key_size], _CURVE_HASHES[key.key_size]
        if self.hash != needed:
            raise click.UsageError(f"--jws: {name}, the algorithm of this key, has {needed}")
        return name

    def digest(self, data: Iterable[bytes]) -> bytes:
        """The digest of data that come in pieces."""
        context = hashlib.new(self.hash)
        for block in data:
            context.update(block)
        return context.digest()

    def check_digest(self, digest: bytes) -> bytes:
        """What a user gave as a digest; click.UsageError if it is none of this hash."""
        if len(digest) != self.algorithm.digest_size:
            raise click.UsageError(
                f"--prehashed: {len(digest)} bytes, a {self.hash} digest has {self.algorithm.digest_size}"
            )
        return digest

    def sign(self, key: Any, digest: bytes) -> bytes:
        """The signature of a key of the store: DER of an EC key, as long as the modulus of an RSA key."""
        prehashed = Prehashed(self.algorithm)
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(digest, self.padding, prehashed)
        signature: bytes = key.sign(digest, ec.ECDSA(prehashed))
        return signature

    def verify(self, key: PublicKey, signature: bytes, digest: bytes) -> None:
        """See that a signature is the key's; SignatureMismatchError if not."""
        prehashed = Prehashed(self.algorithm)
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, digest, self.padding, prehashed)
            else:
                key.verify(signature, digest, ec.ECDSA(prehashed))
        except InvalidSignature:
            raise SignatureMismatchError(
                "verify: the signature is not one of this key over this input, with this hash and form"
            ) from None


def to_raw(key: PublicKey, signature: bytes) -> bytes:
    """r and s as numbers as long as the curve's order; what an RSA key makes has no other form."""
    if isinstance(key, rsa.RSAPublicKey):
        return signature
    size = _order_bytes(key)
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(signature))


def from_raw(key: PublicKey, signature: bytes) -> bytes:
    """The DER of r and s; SignatureMismatchError if the length is not the curve's."""
    if isinstance(key, rsa.RSAPublicKey):
        return signature
    size = _order_bytes(key)
    if len(signature) != 2 * size:
        raise SignatureMismatchError(f"verify: {len(signature)} bytes, r and s of this key have {2 * size}")
    return encode_dss_signature(int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))


def jws_input(name: str, payload: bytes) -> bytes:
    """What a compact JWS signs: protected header and payload (RFC 7515 §5.1)."""
    return _base64url(json_text.dump({"alg": name}).encode()) + b"." + _base64url(payload)


def jws(signed: bytes, signature: bytes) -> bytes:
    """The token."""
    return signed + b"." + _base64url(signature)


def parse_jws(token: bytes, name: str) -> tuple[bytes, bytes, bytes]:
    """What was signed, the signature, and the payload of a token in compact form.

    Raises:
        SignatureMismatchError: it is none, or its header names another algorithm than the key's, or asks for
            extensions ("crit"), of which none is known here.
    """
    parts = token.strip().split(b".")
    try:
        if len(parts) != 3:
            raise ValueError("three parts needed")
        header = json_text.parse(_from_base64url(parts[0]).decode())
        payload, signature = map(_from_base64url, parts[1:])
    except (ValueError, RecursionError):
        raise SignatureMismatchError("verify: the input is no JWS in compact form") from None
    if not isinstance(header, dict) or header.get("alg") != name or "crit" in header or "b64" in header:
        raise SignatureMismatchError(
            f"verify: the header of the JWS must name {name}, the key's algorithm, and no crit"
        )
    return b".".join(parts[:2]), signature, payload


def _order_bytes(key: ec.EllipticCurvePublicKey) -> int:
    return -(-key.key_size // 8)


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _from_base64url(text: bytes) -> bytes:
    """Bytes of base64url without padding (RFC 7515 §2); ValueError for anything else."""
    if b"=" in text or b"+" in text or b"/" in text:
        raise ValueError("not base64url")
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if _base64url(data) != text:  # bits behind the last byte: another text for the same signature
        raise ValueError("not base64url")
    return data
