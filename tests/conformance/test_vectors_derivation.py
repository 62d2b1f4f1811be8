# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Published vectors of HKDF and KBKDF through the device's operations.

CAVP's own KBKDF vectors have a fixed input of random bytes and cannot be asked for: the device composes it of label,
zero, context and length, as SP 800-108 proposes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm_abi.ddi import HashAlgorithm, KeyType
from support.vectors import DERIVE, ENCRYPT, SIGN, VectorBench

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "published-kdf-vectors.json").read_text()
)
SECRET_BYTES: Final = 32
VARIABLE: Final = range(32, 65)


@pytest.mark.parametrize("vector", VECTORS["hkdf_sha256"], ids=lambda vector: str(vector["id"]))
def test_hkdf(bench: VectorBench, vector: dict[str, str]) -> None:
    """RFC 5869; output of a length that no key type has is compared as far as the longest key that fits in it."""
    wanted = bytes.fromhex(vector["okm"])
    length = min(len(wanted), VARIABLE[-1])
    key_type, request = (KeyType.VarHmac256, SIGN) if length in VARIABLE else (KeyType.Aes128, ENCRYPT)
    with bench.raw(bytes.fromhex(vector["ikm"]), KeyType.Secret256, DERIVE) as secret:
        made = bench.session.hkdf(
            secret,
            HashAlgorithm.Sha256,
            key_type,
            request,
            salt=bytes.fromhex(vector["salt"]),
            info=bytes.fromhex(vector["info"]),
            key_length=length if length in VARIABLE else None,
        )
        with bench.temporary(made) as key:
            value = bench.reveal(key)
    assert len(value) in (length, 16)
    assert value == wanted[: len(value)]


@pytest.mark.parametrize("vector", VECTORS["kbkdf_sha256"], ids=lambda vector: vector["name"])
def test_kbkdf(bench: VectorBench, vector: dict[str, str]) -> None:
    """SP 800-108; the 16-byte key is an HMAC key, so zeros behind it do not change it (RFC 2104)."""
    secret_value = bytes.fromhex(vector["key"]).ljust(SECRET_BYTES, b"\0")
    with bench.raw(secret_value, KeyType.Secret256, DERIVE) as secret:
        made = bench.session.kbkdf(
            secret,
            HashAlgorithm.Sha256,
            KeyType.Aes128,
            ENCRYPT,
            label=bytes.fromhex(vector["label"]),
            context=bytes.fromhex(vector["context"]),
        )
        with bench.temporary(made) as key:
            assert bench.reveal(key).hex() == vector["out"]
