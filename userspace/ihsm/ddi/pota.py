# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The partition owner's trust anchor (POTA): endorses a partition's identity key (spec 04 §8)."""

from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.arguments import checked, octets
from ihsm.errors import ArgumentError
from ihsm_abi.ddi import DerPublicKey, KeyType
from ihsm_abi.ddi.limits import POTA_SIGNATURE_BYTES

_HALF = POTA_SIGNATURE_BYTES // 2


def raw_signature(der: bytes) -> bytes:
    """P-384 signature as r then s, big-endian, from its DER form; ArgumentError if it is none."""
    try:
        r, s = decode_dss_signature(octets("raw_signature", "der", der))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")
    except (ValueError, OverflowError) as error:
        raise ArgumentError("raw_signature", "der", f"no P-384 signature: {error}") from None


def der_signature(raw: bytes) -> bytes:
    """DER form of r then s, big-endian, of equal length."""
    raw = octets("der_signature", "raw", raw)
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


class TrustAnchor(Protocol):
    """Holder of the owner's P-384 key: software, a TPM, another HSM."""

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The key that the device will bind the partition's backup key to."""

    def sign(self, message: bytes) -> bytes:
        """ECDSA with SHA-384 over `message`; r then s, big-endian, 96 bytes."""


class SoftwareTrustAnchor:
    """A trust anchor whose key is in this process."""

    @checked
    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        """`key` must be a P-384 key; ArgumentError, ArgumentTypeError otherwise."""
        if not isinstance(key.curve, ec.SECP384R1):
            raise ArgumentError("SoftwareTrustAnchor", "key", f"curve {key.curve.name}, must be secp384r1")
        self._key = key

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._key.public_key()

    def sign(self, message: bytes) -> bytes:
        """Signature with a deterministic nonce (RFC 6979): the same endorsement every time."""
        return raw_signature(self._key.sign(message, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))


def endorse(anchor: TrustAnchor, identity: ec.EllipticCurvePublicKey) -> tuple[bytes, DerPublicKey]:
    """Endorsement of a partition's identity key: `pota_sig` and `pota_pub_key` in host form."""
    message = identity.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    spki = anchor.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return anchor.sign(message), DerPublicKey(der=spki, key_kind=KeyType.Ecc384Public)
