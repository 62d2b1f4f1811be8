# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""python-jose takes the keys as they are; jwcrypto verifies."""

from __future__ import annotations

import json

import pytest
from jose import jwk, jws, jwt

from libraries.judges import jwcrypto_payload
from libraries.rig import JWS_KINDS, Keys, Signs

KINDS = [(algorithm, kind) for algorithm, kind in JWS_KINDS if algorithm != "PS256"]  # which it does not know


@pytest.mark.parametrize(("algorithm", "kind"), KINDS)
def test_a_token_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key):
        token = jwt.encode({"sub": "a"}, key, algorithm=algorithm)
    assert json.loads(jwcrypto_payload(token, key.public_key(), algorithm)) == {"sub": "a"}


@pytest.mark.parametrize(("algorithm", "kind"), KINDS)
def test_its_own_key_object_holds_the_key(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    wrapped = jwk.construct(key, algorithm)
    with signs(key):
        token = jws.sign(b"payload", wrapped, algorithm=algorithm)
    assert jwcrypto_payload(token, key.public_key(), algorithm) == b"payload"
    assert wrapped.public_key().to_dict()["kty"] == ("RSA" if kind.startswith("rsa") else "EC")
