# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What commands tell of a key: from the store's record, without a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ihsm import fields
from ihsm.errors import IhsmError
from ihsm.store import KeyRecord, KeyVersion

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes


class UnsuitableKeyError(IhsmError, ValueError):
    """A key of a kind that a command is not for."""

    exit_code = 2


def key_name(record: KeyRecord, version: KeyVersion) -> str:
    """As a user writes it."""
    return record.label if version is record.newest else f"{record.label}@{version.version}"


def describe_version(record: KeyRecord, version: KeyVersion) -> dict[str, Any]:
    """One version of a key."""
    return {
        "label": record.label,
        "version": version.version,
        "kind": version.kind,
        "usages": usages(version),
        "origin": version.origin,
        "created": fields.encode_time(version.created),
        "public": None if version.public is None else public_pem(record, version),
        "certificates": [certificate_pem(der) for der in version.certificates],
    }


def usages(version: KeyVersion) -> list[str]:
    """What it is for; the tweak key of AES-XTS is no usage."""
    from ihsm.api.making import TWEAK

    return [usage for usage in version.usages if usage != TWEAK]


def public_key(record: KeyRecord, version: KeyVersion) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """The public half.

    Raises:
        UnsuitableKeyError: a secret key has none.
    """
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return load_der_public_key(public_der(record, version))  # type: ignore[return-value]  # no other kinds are kept


def public_der(record: KeyRecord, version: KeyVersion) -> bytes:
    """The same, DER SubjectPublicKeyInfo."""
    if version.public is None:
        raise UnsuitableKeyError(
            f"key {key_name(record, version)!r} is a secret {version.kind} key: it has no public half"
        )
    return version.public


def public_pem(record: KeyRecord, version: KeyVersion) -> str:
    """The same, PEM."""
    return pem_of(public_key(record, version))


def pem_of(key: PublicKeyTypes) -> str:
    """PEM SubjectPublicKeyInfo of a public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def certificate_pem(der: bytes) -> str:
    """PEM of a certificate."""
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
