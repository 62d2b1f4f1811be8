# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""PyJWT takes the keys as they are; jwcrypto verifies."""

from __future__ import annotations

import json

import jwt
import pytest

from libraries.judges import jwcrypto_payload
from libraries.rig import JWS_KINDS, DeviceKey, Keys, Signs


@pytest.mark.parametrize(("algorithm", "kind"), JWS_KINDS)
def test_a_token_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key):
        token = jwt.encode({"sub": "a"}, key, algorithm=algorithm)
    assert json.loads(jwcrypto_payload(token, key.public_key(), algorithm)) == {"sub": "a"}


def test_an_encoder_made_once_signs_each_token(key: DeviceKey, signs: Signs) -> None:
    algorithm = "ES256" if hasattr(key, "curve") else "PS256"
    encoder = jwt.PyJWT()
    with signs(key, 3):
        tokens = [encoder.encode({"jti": str(number)}, key, algorithm=algorithm) for number in range(3)]
    payloads = [json.loads(jwcrypto_payload(token, key.public_key(), algorithm)) for token in tokens]
    assert [payload["jti"] for payload in payloads] == ["0", "1", "2"]
