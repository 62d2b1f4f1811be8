# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""jwcrypto with `ihsm.adapters.jwcrypto`; PyJWT verifies, and joserfc encrypts what the device decrypts."""

from __future__ import annotations

import json

import jwt as pyjwt
import pytest
from joserfc import jwe
from joserfc.jwk import RSAKey
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK, InvalidJWKValue
from jwcrypto.jws import JWS

from ihsm import Hsm
from ihsm.adapters.jwcrypto import HsmJwk
from libraries.judges import pem
from libraries.rig import JWS_KINDS, DeviceKey, Does, Keys, Signs, run_example


def signed(wrapped: JWK, algorithm: str) -> str:
    """A compact JWS."""
    token = JWS(json.dumps({"sub": "a"}))
    token.add_signature(wrapped, protected=json.dumps({"alg": algorithm}))
    text: str = token.serialize(compact=True)
    return text


@pytest.mark.parametrize(("algorithm", "kind"), JWS_KINDS)
def test_a_token_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key):
        token = signed(HsmJwk(key), algorithm)
    assert pyjwt.decode(token, pem(key.public_key()), algorithms=[algorithm]) == {"sub": "a"}


def test_a_message_is_decrypted_in_the_device(keys: Keys, does: Does) -> None:
    key = keys("rsa2048")
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM"}
    sealed = jwe.encrypt_compact(
        header, b"secret", RSAKey.import_key(pem(key.public_key())), algorithms=[*header.values()]
    )
    token = JWE()
    with does(RsaModExp=1):
        token.deserialize(sealed, HsmJwk(key))
    assert token.payload == b"secret"


def test_its_json_form_is_the_public_key_with_what_was_added(key: DeviceKey) -> None:
    members = json.loads(JWK.from_pem(pem(key.public_key())).export_public())
    wrapped = HsmJwk(key, use="sig")
    assert wrapped.export_public(as_dict=True) == {**members, "use": "sig"} | {"kid": wrapped.get("kid")}
    assert wrapped.thumbprint() == JWK.from_pem(pem(key.public_key())).thumbprint()
    assert not wrapped.has_private


def test_a_curve_that_is_not_the_algorithms_is_refused(keys: Keys, does: Does) -> None:
    with does(), pytest.raises(InvalidJWKValue, match="P-384"):
        signed(HsmJwk(keys("p256")), "ES384")


def test_the_example(hsm: Hsm, signs: Signs) -> None:
    with signs(hsm["web"]):
        token = run_example("jwcrypto", hsm=hsm)["token"].serialize()
    assert pyjwt.decode(token, hsm["web"].public_key(), algorithms=["ES256"]) == {"sub": "me"}
