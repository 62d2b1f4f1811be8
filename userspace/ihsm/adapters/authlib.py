# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`authlib.jose`: it asks a key for its JSON form before each use, which a private key of the device does not have."""

from typing import Any

from authlib.jose import ECKey, RSAKey

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey


def jwk(key: EcPrivateKey | RsaPrivateKey, options: Any = None) -> ECKey | RSAKey:
    """A JWK whose JSON form is the public key, and that signs and decrypts in the device.

    Args:
        key: what `Hsm` gives.
        options: further members of the JWK, such as `{"kid": ...}`.
    """
    kind = ECKey if isinstance(key, EcPrivateKey) else RSAKey
    wrapped = kind.import_dict_key(kind.import_key(key.public_key()).tokens, options)
    wrapped.private_key = key
    return wrapped
