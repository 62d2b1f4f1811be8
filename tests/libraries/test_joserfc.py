# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""joserfc with `ihsm.adapters.joserfc`; jwcrypto verifies, and encrypts what the device decrypts."""

from __future__ import annotations

import json

import pytest
from joserfc import jwe, jwt
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from ihsm import Hsm
from ihsm.adapters.joserfc import jwk
from libraries.judges import jwcrypto_payload, pem
from libraries.rig import JWS_KINDS, DeviceKey, Does, Keys, Signs, run_example


@pytest.mark.parametrize(("algorithm", "kind"), JWS_KINDS)
def test_a_token_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key):
        token = jwt.encode({"alg": algorithm}, {"sub": "a"}, jwk(key), algorithms=[algorithm])
    assert json.loads(jwcrypto_payload(token, key.public_key(), algorithm)) == {"sub": "a"}


def test_a_message_is_decrypted_in_the_device(keys: Keys, does: Does) -> None:
    key = keys("rsa2048")
    header = json.dumps({"alg": "RSA-OAEP-256", "enc": "A256GCM"})
    sealing = JWE(b"secret", header)
    sealing.add_recipient(JWK.from_pem(pem(key.public_key())))
    sealed = sealing.serialize(compact=True)
    with does(RsaModExp=1):
        opened = jwe.decrypt_compact(sealed, jwk(key), algorithms=["RSA-OAEP-256", "A256GCM"])
    assert opened.plaintext == b"secret"


def test_its_json_form_is_the_public_key_with_what_was_added(key: DeviceKey) -> None:
    wrapped = jwk(key, {"kid": "mine"})
    members = json.loads(JWK.from_pem(pem(key.public_key())).export_public())
    assert wrapped.as_dict(private=False) == {**members, "kid": "mine"}
    assert wrapped.kid == "mine"


def test_the_example(hsm: Hsm, signs: Signs) -> None:
    with signs(hsm["web"]):
        token = run_example("joserfc", hsm=hsm)["token"]
    assert json.loads(jwcrypto_payload(token, hsm["web"].public_key(), "ES256")) == {"sub": "me"}
