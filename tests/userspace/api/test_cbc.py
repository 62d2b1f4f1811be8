# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-CBC keys: another library is the judge, over as many commands as the data need."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from ihsm import Hsm
from ihsm.api.cbc import AesCbcKey
from ihsm.errors import ArgumentError, ArgumentTypeError


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


IV = bytes(range(16))
SECRETS = {"aes128": os.urandom(16), "aes192": os.urandom(24), "aes256": os.urandom(32)}


@pytest.fixture(scope="module", params=SECRETS)
def kind(request: pytest.FixtureRequest, hsm: Hsm) -> str:
    kind: str = request.param
    hsm.import_key(kind, SECRETS[kind], kind=kind)
    return kind


def judged(kind: str, data: bytes) -> bytes:
    return Cipher(algorithms.AES(SECRETS[kind]), modes.CBC(IV)).encryptor().update(data)


@pytest.mark.parametrize("size", [16, 1008, 1024, 1040, 2048, 5000 // 16 * 16])
def test_both_libraries_agree(hsm: Hsm, kind: str, size: int) -> None:
    key, data = cast(AesCbcKey, hsm[kind]), os.urandom(size)
    sealed = key.encrypt(IV, data)
    assert sealed == judged(kind, data)
    assert key.decrypt(IV, sealed) == data


def test_awaited(hsm: Hsm, kind: str) -> None:
    key, data = cast(AesCbcKey, hsm[kind]), os.urandom(3000 // 16 * 16)
    sealed = asyncio.run(key.encrypt_async(IV, bytearray(data)))
    assert sealed == judged(kind, data)
    assert asyncio.run(key.decrypt_async(IV, memoryview(sealed))) == data


def test_padding_is_the_callers(hsm: Hsm, kind: str) -> None:
    key, padder = cast(AesCbcKey, hsm[kind]), PKCS7(128).padder()
    text = b"not a multiple of sixteen bytes"
    sealed = key.encrypt(IV, padder.update(text) + padder.finalize())
    remover = PKCS7(128).unpadder()
    assert remover.update(key.decrypt(IV, sealed)) + remover.finalize() == text


def test_a_key_that_the_device_made(hsm: Hsm) -> None:
    key = cast(AesCbcKey, hsm.generate("made", "aes256"))
    sealed = key.encrypt(IV, bytes(48))
    assert cast(AesCbcKey, hsm["made"]).decrypt(IV, sealed) == bytes(48)
    assert key.encrypt(bytes(16), bytes(48)) != sealed


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((bytes(12), bytes(16)), ArgumentError, "encrypt: iv: 12 bytes, must be 16"),
        ((None, bytes(16)), ArgumentTypeError, "encrypt: iv: NoneType"),
        ((IV, b""), ArgumentError, "encrypt: data: 0 bytes"),
        ((IV, bytes(20)), ArgumentError, "encrypt: data: 20 bytes, a multiple of 16 needed, not 0; padding is"),
        ((IV, 16), ArgumentTypeError, "encrypt: data: int"),
    ],
)
def test_what_cannot_be_encrypted(hsm: Hsm, kind: str, arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cast(AesCbcKey, hsm[kind]).encrypt(*arguments)
