# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""cwt with `ihsm.adapters.cwt`; taken apart with cbor2 (RFC 9052 §4.4), verified by OpenSSL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cbor2
import cwt
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ihsm import Hsm
from ihsm.adapters.cwt import HsmCoseKey
from libraries.judges import openssl_verifies
from libraries.rig import JWS_KINDS, DeviceKey, Keys, Signs, run_example

PSS = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")


def payload_of(message: bytes, key: DeviceKey, algorithm: str, folder: Path) -> Any:
    """The claims of a COSE_Sign1, whose signature OpenSSL verifies."""
    tagged = cbor2.loads(message)
    protected, _, payload, signature = tagged.value
    half = len(signature) // 2
    if algorithm.startswith("ES"):
        signature = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    options = PSS if algorithm.startswith("PS") else ()
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    openssl_verifies(folder, key.public_key(), signature, signed, f"-sha{algorithm[2:]}", *options)
    return cbor2.loads(payload)


@pytest.mark.parametrize(("algorithm", "kind"), JWS_KINDS)
def test_a_token_is_signed_in_the_device(algorithm: str, kind: str, keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys(kind)
    with signs(key):
        token = cwt.encode({"iss": "a"}, HsmCoseKey(key, alg=algorithm, kid=b"mine"))
    assert payload_of(token, key, algorithm, tmp_path)[1] == "a"


@pytest.mark.parametrize(("algorithm", "kind"), JWS_KINDS)
def test_it_verifies_with_the_public_key(algorithm: str, kind: str, keys: Keys, signs: Signs) -> None:
    wrapped = HsmCoseKey(keys(kind), alg=algorithm, kid=b"mine")
    with signs(keys(kind)):
        token = cwt.encode({"iss": "a"}, wrapped)
    assert cwt.decode(token, wrapped)[1] == "a"
    with pytest.raises(cwt.VerifyError):
        cwt.decode(token[:-1] + bytes([token[-1] ^ 1]), wrapped)
    assert -4 not in wrapped.to_dict()


def test_an_algorithm_that_is_not_the_keys_is_refused(keys: Keys) -> None:
    with pytest.raises(ValueError, match="P-256"):
        HsmCoseKey(keys("p256"), alg="ES384")


def test_the_example(hsm: Hsm, signs: Signs, tmp_path: Path) -> None:
    with signs(hsm["web"]):
        token = run_example("cwt", hsm=hsm)["token"]
    assert payload_of(token, hsm["web"], "ES256", tmp_path)[1] == "me"
