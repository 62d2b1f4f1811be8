# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Authlib with `ihsm.adapters.authlib`; PyJWT verifies."""

from __future__ import annotations

import jwt as pyjwt
import pytest
from authlib.jose import JsonWebToken
from joserfc.jwk import ECKey, RSAKey

from ihsm import Hsm
from ihsm.adapters.authlib import jwk
from libraries.judges import pem
from libraries.rig import JWS_KINDS, DeviceKey, Keys, Signs, run_example


@pytest.mark.parametrize(("algorithm", "kind"), JWS_KINDS)
def test_a_token_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key):
        token = JsonWebToken([algorithm]).encode({"alg": algorithm}, {"sub": "a"}, jwk(key))
    assert pyjwt.decode(token, pem(key.public_key()), algorithms=[algorithm]) == {"sub": "a"}


def test_its_json_form_is_the_public_key_with_what_was_added(key: DeviceKey) -> None:
    wrapped = jwk(key, {"kid": "mine"}).as_dict()
    kind = RSAKey if wrapped["kty"] == "RSA" else ECKey
    assert wrapped["kid"] == "mine"
    assert "d" not in wrapped
    assert kind.import_key(wrapped).raw_value == key.public_key()


def test_the_example(hsm: Hsm, signs: Signs) -> None:
    with signs(hsm["web"]):
        token = run_example("Authlib", hsm=hsm)["token"]
    assert pyjwt.decode(token, hsm["web"].public_key(), algorithms=["ES256"]) == {"sub": "me"}
