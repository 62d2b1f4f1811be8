# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""josepy takes the keys as they are; jwcrypto and OpenSSL verify."""

from __future__ import annotations

from pathlib import Path

import josepy
import pytest

from libraries.judges import jwcrypto_payload, openssl_verifies
from libraries.rig import JWS_KINDS, DeviceKey, Keys, Signs


def jwk(key: DeviceKey) -> josepy.JWK:
    """josepy's wrapper around a key."""
    return josepy.JWKEC(key=key) if hasattr(key, "curve") else josepy.JWKRSA(key=key)


@pytest.mark.parametrize(("algorithm", "kind"), [each for each in JWS_KINDS if each[0] != "PS256"])
def test_a_message_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key):
        signed = josepy.JWS.sign(b"payload", key=jwk(key), alg=getattr(josepy, algorithm), protect=frozenset(["alg"]))
    assert jwcrypto_payload(signed.to_compact(), key.public_key(), algorithm) == b"payload"


def test_its_pss_signature_has_the_longest_salt(keys: Keys, signs: Signs, tmp_path: Path) -> None:
    """Which is not what RFC 7518 §3.5 says, so that no other JOSE library takes it."""
    key = keys("rsa2048")
    with signs(key):
        signature = josepy.PS256.sign(jwk(key).key, b"payload")
    longest = key.key_size // 8 - 32 - 2
    options = ["-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{longest}"]
    openssl_verifies(tmp_path, key.public_key(), signature, b"payload", *options)


def test_wrappers_of_one_key_are_equal_and_of_two_keys_are_not(key: DeviceKey, keys: Keys) -> None:
    other = keys("p384" if hasattr(key, "curve") else "rsa3072")
    assert jwk(key) == jwk(key)
    assert jwk(key) != jwk(other)


def test_the_public_half_goes_into_json_and_the_private_one_does_not(key: DeviceKey) -> None:
    public = jwk(key).public_key()
    assert josepy.JWK.from_json(public.to_json()) == public
    with pytest.raises(TypeError, match="does not leave it"):
        jwk(key).to_json()
