# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""joserfc: it asks a key for its JSON form before each use, which a private key of the device does not have."""

from typing import Any

from joserfc.jwk import ECKey, RSAKey

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey


def jwk(key: EcPrivateKey | RsaPrivateKey, parameters: Any = None) -> ECKey | RSAKey:
    """A JWK whose JSON form is the public key, and that signs and decrypts in the device.

    Args:
        key: what `Hsm` gives.
        parameters: further members of the JWK, such as `{"kid": ..., "alg": ...}`.
    """
    kind = ECKey if isinstance(key, EcPrivateKey) else RSAKey
    return kind(key, kind.binding.export_public_key(key.public_key()), parameters)
