#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""From a key to a certificate to a token. Usage: request_to_jwt.py [LABEL]

Makes the key LABEL ("issuer"), unless the store has it (a store is needed: ihsm init). The key signs a certificate
request (PKCS#10), a CA answers it, the certificate is kept with the key, and a JSON Web Token carries it (x5c of RFC
7515): who trusts the CA can verify the token. PyJWT and pyca/cryptography take the key as one of their own.
"""

import base64
import datetime
import sys

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm import Hsm

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def name_of(text: str) -> x509.Name:
    """A name with nothing but a common name."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def certify(ca_key: ec.EllipticCurvePrivateKey, request: x509.CertificateSigningRequest) -> x509.Certificate:
    """What a CA does with a request; its own key is a plain one here."""
    if not request.is_signature_valid:
        raise ValueError("whoever made the request does not have the key")
    return (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(name_of("Example CA"))
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 90 * DAY)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )


def verify(token: str, ca_public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The claims of a token, for somebody who knows the CA alone; raises where something does not hold."""
    leaf = x509.load_der_x509_certificate(base64.b64decode(jwt.get_unverified_header(token)["x5c"][0]))
    ca_public_key.verify(leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256()))
    if not leaf.not_valid_before_utc <= NOW <= leaf.not_valid_after_utc:
        raise ValueError("the certificate is not valid now")
    return jwt.decode(token, leaf.public_key(), algorithms=["ES256"])


label = sys.argv[1] if len(sys.argv) > 1 else "issuer"
ca_key = ec.generate_private_key(ec.SECP256R1())

with Hsm.open() as hsm:
    key = hsm[label] if label in hsm else hsm.generate(label, "p256", usage="sign")
    request = x509.CertificateSigningRequestBuilder().subject_name(name_of(label)).sign(key, hashes.SHA256())
    certificate = certify(ca_key, request).public_bytes(Encoding.DER)
    hsm.set_certificates(label, [certificate])
    token = jwt.encode(
        {"sub": "alice", "iss": label},
        key,
        algorithm="ES256",
        headers={"x5c": [base64.b64encode(certificate).decode()]},
    )

print(token)
print(f"verified: {verify(token, ca_key.public_key())}")
