# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What cannot work with a key that stays in a device ends with a clear error, and never with a key made in software."""

from __future__ import annotations

import inspect

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from OpenSSL import SSL, crypto
from sigstore.sign import Signer, SigningContext

from ihsm.api.errors import KeyNotExportableError
from libraries.rig import DeviceKey, Does, self_signed

REFUSAL = r"private_bytes: key '\w+' is in the device and does not leave it"


def test_pkcs12_is_a_container_for_exported_keys(key: DeviceKey, does: Does) -> None:
    certificate = self_signed(key, "name")
    with does(), pytest.raises(KeyNotExportableError, match=REFUSAL):
        pkcs12.serialize_key_and_certificates(b"name", key, certificate, None, BestAvailableEncryption(b"secret"))


def test_pyopenssl_takes_keys_by_exporting_them(key: DeviceKey, does: Does) -> None:
    with does():
        with pytest.raises(KeyNotExportableError, match=REFUSAL):
            SSL.Context(SSL.TLS_METHOD).use_privatekey(key)
        with pytest.raises(KeyNotExportableError, match=REFUSAL):
            crypto.PKey.from_cryptography_key(key)


def test_sigstore_makes_its_key_itself(key: DeviceKey, does: Does) -> None:
    """There is no place where a key could be given; that it stays so is looked at here."""
    places = [Signer.__init__, Signer.sign_artifact, Signer.sign_dsse, SigningContext.__init__, SigningContext.signer]
    parameters = {name for place in places for name in inspect.signature(place).parameters}
    assert not [name for name in parameters if "key" in name]
    with does():
        for place in (Signer, SigningContext):
            with pytest.raises(TypeError, match="unexpected keyword argument"):
                place(private_key=key)
