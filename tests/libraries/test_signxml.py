# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""signxml takes the keys as they are; xmlsec1 verifies, and OpenSSL what not every xmlsec1 knows."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml import XMLSigner
from signxml.algorithms import SignatureMethod

from libraries.judges import openssl_verifies, run
from libraries.rig import Keys, Signs, self_signed

C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
DOCUMENT = b"<order><item>one</item></order>"


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("p256", SignatureMethod.ECDSA_SHA256),
        ("p384", SignatureMethod.ECDSA_SHA384),
        ("p521", SignatureMethod.ECDSA_SHA512),
        ("rsa2048", SignatureMethod.RSA_SHA256),
    ],
)
def test_a_document_is_signed_in_the_device(
    kind: str, method: SignatureMethod, keys: Keys, signs: Signs, tmp_path: Path
) -> None:
    key = keys(kind)
    certificate = self_signed(key, "signer")
    signer = XMLSigner(signature_algorithm=method, c14n_algorithm=C14N)
    with signs(key):
        signed = signer.sign(etree.fromstring(DOCUMENT), key=key, cert=[certificate])
    trusted, document = tmp_path / "signer.pem", tmp_path / "signed.xml"
    trusted.write_bytes(certificate.public_bytes(Encoding.PEM))
    document.write_bytes(etree.tostring(signed))
    command = ["xmlsec1", "--verify", "--trusted-pem", trusted, "--enabled-key-data", "x509", document]
    assert b"OK" in run(*command)
    document.write_bytes(etree.tostring(signed).replace(b"one", b"two"))
    run(*command, succeeds=False)


def test_rsa_pss(keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys("rsa2048")
    signer = XMLSigner(signature_algorithm=SignatureMethod.SHA256_RSA_MGF1, c14n_algorithm=C14N)
    with signs(key):
        signed = signer.sign(etree.fromstring(DOCUMENT), key=key)
    info, value = (signed.find(f".//{{*}}{name}") for name in ("SignedInfo", "SignatureValue"))
    assert info is not None
    assert value is not None
    octets = etree.tostring(info, method="c14n", exclusive=True)
    options = ("-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32")
    openssl_verifies(tmp_path, key.public_key(), base64.b64decode(value.text or ""), octets, *options)
