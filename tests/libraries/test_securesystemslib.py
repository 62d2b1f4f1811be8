# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""securesystemslib's CryptoSigner takes the keys as they are; OpenSSL verifies."""

from __future__ import annotations

from pathlib import Path

import pytest
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from libraries.judges import openssl_verifies
from libraries.rig import Keys, Signs

PSS = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32")
KINDS = [("p256", "-sha256"), ("p384", "-sha384"), ("p521", "-sha512"), ("rsa2048", "-sha256", *PSS)]


@pytest.mark.parametrize("case", KINDS, ids=lambda case: case[0])
def test_bytes_are_signed_in_the_device(case: tuple[str, ...], keys: Keys, signs: Signs, tmp_path: Path) -> None:
    kind, *options = case
    key = keys(kind)
    signer = CryptoSigner(key)
    with signs(key):
        signature = signer.sign(b"payload")
    assert signature.keyid == SSlibKey.from_crypto(key.public_key()).keyid
    openssl_verifies(tmp_path, key.public_key(), bytes.fromhex(signature.signature), b"payload", *options)


def test_an_envelope_is_signed_in_the_device(keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys("p256")
    envelope = Envelope(b"{}", "application/json", {})
    with signs(key):
        envelope.sign(CryptoSigner(key))
    (signature,) = envelope.signatures.values()
    encoded = b"DSSEv1 16 application/json 2 {}"  # the pre-authentication encoding of DSSE
    openssl_verifies(tmp_path, key.public_key(), bytes.fromhex(signature.signature), encoded)
