# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key attestation reports: decoding and verification (spec 05 §14, RFC 9052).

Whatever the bytes are, the outcome is a report or AttestationError. Nothing of a report is believed before its
signature is verified, and the signature is verified as the report's own header demands or not at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ihsm.arguments import octets
from ihsm.ddi import cbor
from ihsm.ddi.errors import AttestationError
from ihsm.ddi.keys import PublicKey
from ihsm.ddi.pota import der_signature
from ihsm.errors import ArgumentTypeError
from ihsm_abi.ddi.attestation import (
    CONTENT_TYPE,
    COSE_SIGN1_TAG,
    ES384,
    PUBLIC_KEY_BYTES,
    REPORT_DATA_BYTES,
    REPORT_VERSION,
    AttestationFlags,
    ReportField,
)
from ihsm_abi.ddi.limits import POTA_SIGNATURE_BYTES

_UUID_BYTES: Final = 16
_ALG, _CRIT, _CONTENT_TYPE = 1, 2, 3
"""Labels of COSE headers that mean something here (RFC 9052 §3.1)."""
_CBOR_FORMAT: Final = 60
"""CoAP's number of application/cbor."""
_SIGNATURE_CONTEXT: Final = b"\x84\x6aSignature1"
_NO_EXTERNAL_DATA: Final = b"\x40"
_COSE_KTY, _COSE_EC2, _COSE_RSA = 1, 2, 3
_COSE_CURVES: Final[dict[int, ec.EllipticCurve]] = {1: ec.SECP256R1(), 2: ec.SECP384R1(), 3: ec.SECP521R1()}
_RSA_BITS: Final = (2048, 3072, 4096)
_ALL_FLAGS: Final = sum(AttestationFlags)


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
        identity: Partition identity key, P-384, taken from a verified `CertificateChain`.
        report_data: If given, the report must carry it, zero-padded.

    Raises:
        AttestationError: malformed, wrongly signed, of an unsupported version or kind, or over other data.
        ArgumentTypeError: `report` or `report_data` are no bytes, or `identity` is no P-384 key.
    """
    if not isinstance(identity, ec.EllipticCurvePublicKey) or not isinstance(identity.curve, ec.SECP384R1):
        raise ArgumentTypeError("verify_report", "identity", f"{type(identity).__name__}, must be a P-384 key")
    wanted = None if report_data is None else octets("verify_report", "report_data", report_data)
    with _refusing("report"):
        decoded = _decode(_signed_payload(octets("verify_report", "report", report), identity))
    if wanted is not None and decoded.report_data != wanted.ljust(REPORT_DATA_BYTES, b"\0"):
        raise AttestationError("attestation report: made for other report data")
    return decoded


@contextmanager
def _refusing(part: str) -> Iterator[None]:
    """What decoding raises, as AttestationError."""
    try:
        yield
    except cbor.CborError as error:
        raise AttestationError(f"attestation report: {part}: {error}") from None


def _signed_payload(report: bytes, identity: ec.EllipticCurvePublicKey) -> bytes:
    """Payload of a COSE_Sign1 whose header is understood and whose signature verifies (RFC 9052 §4.2, §4.4)."""
    parts = cbor.decode(report, tag=COSE_SIGN1_TAG)
    if not isinstance(parts, list) or len(parts) != 4:
        raise AttestationError("attestation report: no COSE_Sign1, which is an array of four")
    protected, unprotected, payload, signature = parts
    if not isinstance(protected, bytes) or not isinstance(payload, bytes) or not isinstance(signature, bytes):
        raise AttestationError("attestation report: header, payload or signature is no byte string")
    _check_headers(protected, unprotected)
    if len(signature) != POTA_SIGNATURE_BYTES:
        raise AttestationError(f"attestation report: signature of {len(signature)} bytes")
    signed = _SIGNATURE_CONTEXT + cbor.encode_bytes(protected) + _NO_EXTERNAL_DATA + cbor.encode_bytes(payload)
    try:
        identity.verify(der_signature(signature), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise AttestationError("attestation report: the signature is not that of the identity key") from None
    return payload


def _check_headers(encoded: bytes, unprotected: cbor.Value) -> None:
    """What the protected header demands, this verifier does: ES384, and no critical label that it does not know."""
    with _refusing("protected header"):
        protected = cbor.decode(encoded) if encoded else {}
    if not isinstance(protected, dict) or not isinstance(unprotected, dict):
        raise AttestationError("attestation report: a header is no map")
    twice = protected.keys() & unprotected.keys()
    if twice or _CRIT in unprotected:
        raise AttestationError(f"attestation report: labels in the wrong header: {sorted(map(str, twice)) or _CRIT}")
    if protected.get(_ALG) != ES384:
        raise AttestationError(
            f"attestation report: signed with algorithm {protected.get(_ALG)!r}, not ES384 ({ES384})"
        )
    if _CRIT in protected:
        critical = protected[_CRIT]
        if not isinstance(critical, list) or not critical:
            raise AttestationError("attestation report: the list of critical labels is none")
        for label in critical:
            if label not in (_ALG, _CONTENT_TYPE) or label not in protected:
                raise AttestationError(f"attestation report: critical label {label!r} is unknown or missing")
    if protected.get(_CONTENT_TYPE, CONTENT_TYPE) not in (CONTENT_TYPE, _CBOR_FORMAT):
        raise AttestationError(f"attestation report: content of type {protected[_CONTENT_TYPE]!r}")


def _decode(encoded: bytes) -> AttestationReport:
    payload = cbor.decode(encoded)
    if not isinstance(payload, dict):
        raise AttestationError("attestation report: payload is no map")
    version = payload.get(ReportField.VERSION)
    if version != REPORT_VERSION:
        raise AttestationError(f"attestation report: version {version!r}, not {REPORT_VERSION}")
    if set(payload) != set(ReportField):
        raise AttestationError("attestation report: payload is not a map of the seven fields")
    padded_key = _octets(payload, ReportField.PUBLIC_KEY, PUBLIC_KEY_BYTES)
    size, flags = payload[ReportField.PUBLIC_KEY_SIZE], payload[ReportField.FLAGS]
    if not isinstance(size, int) or not 0 <= size <= PUBLIC_KEY_BYTES or any(padded_key[size:]):
        raise AttestationError(f"attestation report: size of the key, {size!r}, is not that of the field's content")
    if not isinstance(flags, int) or flags & ~_ALL_FLAGS:
        raise AttestationError(f"attestation report: unknown claims in {flags!r}")
    return AttestationReport(
        public_key=_public_key(padded_key[:size]) if size else None,
        flags=AttestationFlags(flags),
        app_uuid=_octets(payload, ReportField.APP_UUID, _UUID_BYTES),
        report_data=_octets(payload, ReportField.REPORT_DATA, REPORT_DATA_BYTES),
        vm_launch_id=_octets(payload, ReportField.VM_LAUNCH_ID, _UUID_BYTES),
    )


def _octets(payload: dict[int | str, cbor.Value], field: ReportField, size: int) -> bytes:
    value = payload[field]
    if not isinstance(value, bytes) or len(value) != size:
        raise AttestationError(f"attestation report: {field.name} is not {size} bytes")
    return value


def _public_key(encoded: bytes) -> PublicKey:
    """The COSE_Key (RFC 9053 §7.1, RFC 8230) of an EC or RSA key, with the labels of spec 05 §14.2 and no others."""
    with _refusing("attested key"):
        key = cbor.decode(encoded)
    if not isinstance(key, dict):
        raise AttestationError("attestation report: attested key is no map")
    kind = key.get(_COSE_KTY)
    try:
        if kind == _COSE_EC2 and set(key) == {_COSE_KTY, -1, -2, -3}:
            return _ec_key(key[-1], key[-2], key[-3])
        if kind == _COSE_RSA and set(key) == {_COSE_KTY, -1, -2}:
            return _rsa_key(key[-1], key[-2])
    except AttestationError:
        raise
    except Exception as error:  # the library's types for points off the curve and moduli that are none are its own
        raise AttestationError(f"attestation report: attested key: {error}") from None
    raise AttestationError(f"attestation report: attested key has type {kind!r} or unknown parameters")


def _ec_key(curve_number: cbor.Value, x: cbor.Value, y: cbor.Value) -> ec.EllipticCurvePublicKey:
    curve = _COSE_CURVES.get(curve_number) if isinstance(curve_number, int) else None
    if curve is None:
        raise AttestationError(f"attestation report: attested key on an unknown curve, {curve_number!r}")
    size = (curve.key_size + 7) // 8
    if not isinstance(x, bytes) or not isinstance(y, bytes) or (len(x), len(y)) != (size, size):
        raise AttestationError(f"attestation report: coordinates of the attested key are not {size} bytes each")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve).public_key()


def _rsa_key(modulus: cbor.Value, exponent: cbor.Value) -> rsa.RSAPublicKey:
    if not isinstance(modulus, bytes) or not isinstance(exponent, bytes):
        raise AttestationError("attestation report: numbers of the attested key are no byte strings")
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    if n.bit_length() not in _RSA_BITS:
        raise AttestationError(f"attestation report: attested RSA key of {n.bit_length()} bits")
    return rsa.RSAPublicNumbers(e, n).public_key()
