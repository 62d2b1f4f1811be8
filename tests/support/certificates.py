# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Certificates of a chain as a device has one, or as it should not."""

import datetime
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(3)]
USAGE = dict.fromkeys(
    [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)


def name(number: int) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"certificate {number}")])


def certificate(
    number: int,
    *,
    ca: bool = True,
    path_length: int | None = None,
    signer: int | None = None,
    until: int = 9999,
    leaf_constraints: bytes | None = None,
    key: Any = None,
    subject: x509.Name | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    usages: Sequence[str] | None = None,
) -> bytes:
    """Certificate of KEYS[number], issued by the one before it.

    `more` are further extensions, each with its criticality; `usages` are those of the key, if they are not to be
    those of a CA or of a leaf.
    """
    issuer = max(number - 1, 0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject or name(number))
        .issuer_name(name(issuer))
        .public_key(key or KEYS[number].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2018, 1, 1))
        .not_valid_after(datetime.datetime(until, 12, 31, 23, 59, 59))
    )
    usages = ["key_cert_sign" if ca else "digital_signature"] if usages is None else usages
    builder = builder.add_extension(x509.KeyUsage(**USAGE | dict.fromkeys(usages, True)), critical=True)
    if leaf_constraints is None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    else:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.BasicConstraints.oid, leaf_constraints), critical=True
        )
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    signing_key = KEYS[issuer if signer is None else signer]
    return builder.sign(signing_key, hashes.SHA384()).public_bytes(Encoding.DER)
