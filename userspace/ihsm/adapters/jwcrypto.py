# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""jwcrypto: its keys are made of numbers alone, and a key of the device has no private ones."""

from typing import Any

from jwcrypto.jwk import JWK

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey


class HsmJwk(JWK):
    """A JWK with the members of the public key, and that signs and decrypts in the device."""

    def __init__(self, key: EcPrivateKey | RsaPrivateKey, **members: Any) -> None:
        """`members`: further ones of the JWK, such as `kid="..."`."""
        super().__init__(**JWK.from_pyca(key.public_key()).export_public(as_dict=True) | members)
        self._device_key = key

    def _get_private_key(self, arg: Any = None) -> EcPrivateKey | RsaPrivateKey:
        if isinstance(self._device_key, EcPrivateKey) and arg is not None:
            self._get_curve_by_name(arg, ctype="EC")  # which must be the key's
        return self._device_key
