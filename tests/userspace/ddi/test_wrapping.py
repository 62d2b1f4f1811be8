# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Import blobs open with the private keys of the recordings; recorded blobs are of the same make."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key

from ihsm.ddi.wrapping import HASHES, wrap_key
from ihsm_abi.ddi import HashAlgorithm, RsaUnwrapReq, decode_request
from ihsm_abi.ddi.formats import WRAPPED_KEK_BYTES
from support.ddi_replay import lines

CONVERSATIONS = lines("crypto-conversations.jsonl")
MATERIAL: dict[str, str] = CONVERSATIONS[0]["keys"]
SETUP_KEY = next(line["derived"] for line in CONVERSATIONS[1:] if "private_key_pkcs8" in line.get("derived", {}))
UNWRAPPING: Any = load_der_private_key(bytes.fromhex(SETUP_KEY["private_key_pkcs8"]), None)
IMPORTS = [
    line
    for line in CONVERSATIONS[1:]
    if line["conv"] == "import" and line["op"] == "RsaUnwrap" and line["in"]["payload"].startswith("@")
]


def unwrap(blob: bytes, hash_algorithm: HashAlgorithm) -> tuple[bytes, bytes]:
    """KEK and payload of a blob."""
    algorithm = HASHES[hash_algorithm]()
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm), algorithm=algorithm, label=None)
    kek = UNWRAPPING.decrypt(blob[:WRAPPED_KEK_BYTES], oaep)
    return kek, aes_key_unwrap_with_padding(kek, blob[WRAPPED_KEK_BYTES:])


@pytest.mark.parametrize("line", IMPORTS, ids=lambda line: line["step"].replace(" ", "_"))
def test_blobs_are_made_as_recorded_ones(line: dict[str, Any]) -> None:
    _, request = decode_request(bytes.fromhex(line["req"]))
    assert isinstance(request, RsaUnwrapReq)
    algorithm = request.wrapped_blob_hash_algorithm
    kek, payload = unwrap(request.wrapped_blob, algorithm)
    assert (kek.hex(), payload.hex()) == (line["in"]["kek"], MATERIAL[line["in"]["payload"][1:]])
    blob = wrap_key(payload, UNWRAPPING.public_key(), algorithm, kek=kek)
    assert len(blob) == len(request.wrapped_blob)
    assert blob[WRAPPED_KEK_BYTES:] == request.wrapped_blob[WRAPPED_KEK_BYTES:]
    assert unwrap(blob, algorithm) == (kek, payload)


def test_each_wrapping_has_a_kek_of_its_own() -> None:
    algorithm = HashAlgorithm.Sha256
    keks = {unwrap(wrap_key(b"secret", UNWRAPPING.public_key(), algorithm), algorithm)[0] for _ in range(2)}
    assert len(keks) == 2
    assert {len(kek) for kek in keks} == {32}


def test_other_unwrapping_keys_are_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(ValueError, match="RSA-2048"):
            wrap_key(b"secret", key.public_key(), HashAlgorithm.Sha256)
