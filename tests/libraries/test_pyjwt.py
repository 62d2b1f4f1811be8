# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""PyJWT takes the keys as they are; jwcrypto verifies."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from ihsm import Hsm
from libraries.judges import jwcrypto_payload
from libraries.rig import JWS_KINDS, DeviceKey, Keys, Signs, run_example


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


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the user's own store, whose private device starts and ends with it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("IHSM_STORE", raising=False)
    monkeypatch.delenv("IHSM_DEVICE", raising=False)
    with Hsm.create(device="private") as hsm:
        public = hsm.generate("web", "p256").public_key()
    token = run_example("Keys in other libraries")["token"]
    assert json.loads(jwcrypto_payload(token, public, "ES256")) == {"sub": "me"}
