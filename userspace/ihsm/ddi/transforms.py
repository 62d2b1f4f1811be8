# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Dialects: what the host changes in messages so that its side always sees DER and big-endian forms (spec 03 §6).

A virtual device speaks those forms itself. A physical device sends and expects raw little-endian material; the
transforms T1 to T8 convert requests before they are encoded and responses after they are decoded.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from ihsm_abi.ddi import DerPublicKey, DeviceKind, KeyType
from ihsm_abi.ddi.formats import (
    ECC_BY_PUBLIC_TYPE,
    ECC_FORMATS,
    RAW_DIGEST_BYTES,
    RAW_RSA_EXPONENT_BYTES,
    RSA_MODULUS_BYTES,
    WRAPPED_KEK_BYTES,
    EccFormat,
)
from ihsm_abi.ddi.limits import DIGEST_MAX_BYTES, POTA_SIGNATURE_BYTES
from ihsm_abi.mbor import DecodeErrorKind, EncodeErrorKind, MborDecodeError, MborEncodeError, MborMap

M = TypeVar("M", bound=MborMap)
_UNCOMPRESSED = b"\x04"


def _reversed(data: bytes) -> bytes:
    return data[::-1]


def ecc_format_of(spki: bytes) -> EccFormat:
    """The curve of a DER SubjectPublicKeyInfo with an uncompressed point; the point itself is not checked.

    Raises:
        MborEncodeError: DerDecodeFailed for anything else.
    """
    for candidate in ECC_FORMATS:
        if len(spki) == candidate.spki_bytes and spki.startswith(candidate.spki_prefix + _UNCOMPRESSED):
            return candidate
    raise MborEncodeError(EncodeErrorKind.DerDecodeFailed, "EC SubjectPublicKeyInfo")


def ecc_spki_to_raw(spki: bytes) -> bytes:
    """T1: DER SubjectPublicKeyInfo to x then y, little-endian, zero-filled."""
    curve = ecc_format_of(spki)
    point = spki[len(curve.spki_prefix) + 1 :]
    x, y = point[: curve.coordinate_bytes], point[curve.coordinate_bytes :]
    return b"".join(_reversed(coordinate).ljust(curve.padded_bytes, b"\0") for coordinate in (x, y))


def ecc_raw_to_spki(raw: bytes, key_type: KeyType) -> bytes:
    """T3: x then y, little-endian, to DER SubjectPublicKeyInfo."""
    curve = ECC_BY_PUBLIC_TYPE[key_type]
    if len(raw) != curve.raw_bytes:
        raise MborDecodeError(DecodeErrorKind.InvalidKeyData, f"{key_type.name} of {len(raw)} bytes")
    x, y = raw[: curve.coordinate_bytes], raw[curve.padded_bytes :][: curve.coordinate_bytes]
    return curve.spki_prefix + _UNCOMPRESSED + _reversed(x) + _reversed(y)


def rsa_raw_to_spki(raw: bytes, key_type: KeyType) -> bytes:
    """T2: n then e, little-endian, to DER SubjectPublicKeyInfo. Bytes that are missing read as zero."""
    # Loaded when used: every command line that sends one message would wait for it.
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    size = RSA_MODULUS_BYTES[key_type]
    n = int.from_bytes(raw[:size], "little")
    e = int.from_bytes(raw[size : size + RAW_RSA_EXPONENT_BYTES], "little")
    try:
        public = RSAPublicNumbers(e, n).public_key()
    except ValueError as error:
        raise MborDecodeError(DecodeErrorKind.InvalidParameter, f"{key_type.name}: {error}") from None
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_key_to_wire(key: DerPublicKey) -> DerPublicKey:
    """T1 in a request; the key's kind must be that of its curve."""
    curve = ecc_format_of(key.der)
    if key.key_kind != curve.public_type:
        raise MborEncodeError(EncodeErrorKind.DerDecodeFailed, f"{curve.public_type.name} sent as {key.key_kind!r}")
    return dataclasses.replace(key, der=ecc_spki_to_raw(key.der))


def public_key_to_host(key: DerPublicKey | None) -> DerPublicKey | None:
    """T2 or T3 in a response."""
    if key is None:
        return None
    if key.key_kind in RSA_MODULUS_BYTES:
        return dataclasses.replace(key, der=rsa_raw_to_spki(key.der, key.key_kind))
    if key.key_kind in ECC_BY_PUBLIC_TYPE:
        return dataclasses.replace(key, der=ecc_raw_to_spki(key.der, key.key_kind))
    raise MborDecodeError(DecodeErrorKind.InvalidKeyType, repr(key.key_kind))


def pota_signature_to_wire(signature: bytes) -> bytes:
    """T4: both halves reversed."""
    if len(signature) != POTA_SIGNATURE_BYTES:
        raise MborEncodeError(EncodeErrorKind.InvalidLen, f"POTA signature of {len(signature)} bytes")
    half = POTA_SIGNATURE_BYTES // 2
    return _reversed(signature[:half]) + _reversed(signature[half:])


def digest_to_wire(digest: bytes) -> bytes:
    """T5: reversed, zero-filled or cut to 68 bytes."""
    if len(digest) > DIGEST_MAX_BYTES:
        raise MborEncodeError(EncodeErrorKind.InvalidLen, f"digest of {len(digest)} bytes")
    return _reversed(digest)[:RAW_DIGEST_BYTES].ljust(RAW_DIGEST_BYTES, b"\0")


def signature_to_host(raw: bytes) -> bytes:
    """T6: r then s, little-endian, zero-filled, to r then s, big-endian."""
    for curve in ECC_FORMATS:
        if len(raw) == curve.raw_bytes:
            r, s = raw[: curve.coordinate_bytes], raw[curve.padded_bytes :][: curve.coordinate_bytes]
            return _reversed(r) + _reversed(s)
    raise MborDecodeError(DecodeErrorKind.InvalidLen, f"signature of {len(raw)} bytes")


def wrapped_blob_to_wire(blob: bytes) -> bytes:
    """T8: the RSA ciphertext in front reversed."""
    if len(blob) < WRAPPED_KEK_BYTES:
        raise MborEncodeError(EncodeErrorKind.InvalidLen, f"wrapped blob of {len(blob)} bytes")
    return _reversed(blob[:WRAPPED_KEK_BYTES]) + blob[WRAPPED_KEK_BYTES:]


_Rules = dict[str, dict[str, Callable[[Any], Any]]]
"""Name of a message's class -> field -> change. By name: to load a family of messages takes longer than to send one."""
_TO_WIRE: _Rules = {
    "EstablishCredentialReq": {
        "pub_key": public_key_to_wire,
        "pota_sig": pota_signature_to_wire,
        "pota_pub_key": public_key_to_wire,
    },
    "OpenSessionReq": {"pub_key": public_key_to_wire},
    "ReopenSessionReq": {"pub_key": public_key_to_wire},
    "ChangePinReq": {"pub_key": public_key_to_wire},
    "EcdhKeyExchangeReq": {"pub_key_der": ecc_spki_to_raw},
    "EccSignReq": {"digest": digest_to_wire},
    "RsaModExpReq": {"y": _reversed},
    "RsaUnwrapReq": {"wrapped_blob": wrapped_blob_to_wire},
    "RsaUnwrapKekReq": {"wrapped_blob": wrapped_blob_to_wire},
}
_TO_HOST: _Rules = {
    "GetEstablishCredEncryptionKeyResp": {"pub_key": public_key_to_host, "pub_key_signature": signature_to_host},
    "GetSessionEncryptionKeyResp": {"pub_key": public_key_to_host, "pub_key_signature": signature_to_host},
    "EccGenerateKeyPairResp": {"pub_key": public_key_to_host},
    "GetUnwrappingKeyResp": {"pub_key": public_key_to_host},
    "OpenKeyResp": {"pub_key": public_key_to_host},
    "RsaUnwrapResp": {"pub_key": public_key_to_host},
    "UnmaskKeyResp": {"pub_key": public_key_to_host},
    "DerKeyImportResp": {"pub_key": public_key_to_host},
    "EccSignResp": {"signature": signature_to_host},
    "RsaModExpResp": {"x": _reversed},
}


def _apply(rules: _Rules, message: M) -> M:
    changes = rules.get(type(message).__name__)
    if changes is None:
        return message
    return dataclasses.replace(message, **{name: change(getattr(message, name)) for name, change in changes.items()})  # type: ignore[type-var]  # every map type is a dataclass


class Dialect:
    """Converts messages for a device of one kind; while the kind is unknown nothing is converted."""

    def __init__(self, kind: DeviceKind | None = None) -> None:
        """`kind` is what GetDeviceInfo reports."""
        self.kind = kind

    def to_wire(self, request: M) -> M:
        """Request in the device's forms; MborEncodeError if a field has none."""
        return _apply(_TO_WIRE, request) if self.kind is DeviceKind.Physical else request

    def to_host(self, response: M) -> M:
        """Response in the host's forms; MborDecodeError if a field has none."""
        return _apply(_TO_HOST, response) if self.kind is DeviceKind.Physical else response
