# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key attestation reports: decoding and verification (spec 05 §14)."""

from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSE, COSEKey

from ihsm.ddi.errors import AttestationError
from ihsm.ddi.keys import PublicKey
from ihsm_abi.ddi.attestation import (
    PUBLIC_KEY_BYTES,
    REPORT_DATA_BYTES,
    REPORT_VERSION,
    AttestationFlags,
    ReportField,
)

_UUID_BYTES = 16
_COSE_KTY, _COSE_EC2, _COSE_RSA = 1, 2, 3
_COSE_CURVES: dict[int, ec.EllipticCurve] = {1: ec.SECP256R1(), 2: ec.SECP384R1(), 3: ec.SECP521R1()}


@dataclass(frozen=True, slots=True)
class AttestationReport:
    """What a partition says about one of its keys."""

    public_key: PublicKey | None
    """The attested key's public half, None for a symmetric key."""
    flags: AttestationFlags
    app_uuid: bytes
    """Credential id of the application, 16 bytes."""
    report_data: bytes
    """The requester's data, zero-padded to 128 bytes."""
    vm_launch_id: bytes
    """GUID of the virtual machine's launch, 16 bytes."""


def verify_report(
    report: bytes, identity: ec.EllipticCurvePublicKey, *, report_data: bytes | None = None
) -> AttestationReport:
    """Verify a report's signature and decode it.

    Args:
        report: As `Session.attest` returns it.
        identity: Partition identity key, taken from a verified `CertificateChain`.
        report_data: If given, the report must carry it, zero-padded.

    Raises:
        AttestationError: malformed, wrongly signed, or over other data.
    """
    key = COSEKey.from_pem(identity.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), alg="ES384")
    try:
        payload = cbor2.loads(COSE.new().decode(report, key))
    except Exception as error:  # cwt and cbor2 raise a wide range of types on bad input
        raise AttestationError(f"attestation report: {error}") from error
    decoded = _decode(payload)
    if report_data is not None and decoded.report_data != report_data.ljust(REPORT_DATA_BYTES, b"\0"):
        raise AttestationError("attestation report: made for other report data")
    return decoded


def _decode(payload: Any) -> AttestationReport:
    if not isinstance(payload, dict) or set(payload) != set(ReportField):
        raise AttestationError("attestation report: payload is not a map of the seven fields")
    if payload[ReportField.VERSION] != REPORT_VERSION:
        raise AttestationError(f"attestation report: version {payload[ReportField.VERSION]}, not {REPORT_VERSION}")
    padded_key = _octets(payload, ReportField.PUBLIC_KEY, PUBLIC_KEY_BYTES)
    size, flags = payload[ReportField.PUBLIC_KEY_SIZE], payload[ReportField.FLAGS]
    if not isinstance(size, int) or not 0 <= size <= PUBLIC_KEY_BYTES or not isinstance(flags, int):
        raise AttestationError("attestation report: key size or flags are out of range")
    return AttestationReport(
        public_key=_public_key(padded_key[:size]) if size else None,
        flags=AttestationFlags(flags),
        app_uuid=_octets(payload, ReportField.APP_UUID, _UUID_BYTES),
        report_data=_octets(payload, ReportField.REPORT_DATA, REPORT_DATA_BYTES),
        vm_launch_id=_octets(payload, ReportField.VM_LAUNCH_ID, _UUID_BYTES),
    )


def _octets(payload: dict[int, Any], field: ReportField, size: int) -> bytes:
    value = payload[field]
    if not isinstance(value, bytes) or len(value) != size:
        raise AttestationError(f"attestation report: {field.name} is not {size} bytes")
    return value


def _public_key(encoded: bytes) -> PublicKey:
    """The COSE_Key (RFC 9052, RFC 8230) of an EC or RSA key."""
    try:
        key = cbor2.loads(encoded)
        if key[_COSE_KTY] == _COSE_EC2:
            x, y = (int.from_bytes(key[label], "big") for label in (-2, -3))
            return ec.EllipticCurvePublicNumbers(x, y, _COSE_CURVES[key[-1]]).public_key()
        if key[_COSE_KTY] == _COSE_RSA:
            n, e = (int.from_bytes(key[label], "big") for label in (-1, -2))
            return rsa.RSAPublicNumbers(e, n).public_key()
    except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError) as error:
        raise AttestationError(f"attestation report: attested key: {error}") from None
    raise AttestationError(f"attestation report: attested key has type {key[_COSE_KTY]}")
