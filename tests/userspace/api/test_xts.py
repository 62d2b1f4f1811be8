# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-XTS keys: another library is the judge, unit for unit."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ihsm import Hsm
from ihsm.api.xts import AesXtsKey
from ihsm.errors import ArgumentError, ArgumentTypeError


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


SECRET = os.urandom(64)


@pytest.fixture(scope="module")
def key(hsm: Hsm) -> AesXtsKey:
    return cast(AesXtsKey, hsm.import_key("xts", SECRET, kind="aes256-xts"))


def judged(tweak: bytes, data: bytes, unit: int) -> bytes:
    size = unit or len(data)
    first = int.from_bytes(tweak, "little")
    parts = []
    for number, start in enumerate(range(0, len(data), size)):
        mode = modes.XTS((first + number).to_bytes(16, "little"))
        parts.append(Cipher(algorithms.AES(SECRET), mode).encryptor().update(data[start : start + size]))
    return b"".join(parts)


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        (16, 0),
        (512, 0),
        (528, 0),
        (100000, 0),
        (512, 512),
        (5 * 512, 512),
        (4096, 4096),
        (3 * 4096, 4096),
        (65536, 8192),
    ],
)
@pytest.mark.parametrize("tweak", [bytes(16), b"\xff\x01" + bytes(14), bytes(range(16))])
def test_both_libraries_agree(key: AesXtsKey, size: int, unit: int, tweak: bytes) -> None:
    data = os.urandom(size)
    sealed = key.encrypt(tweak, data, unit)
    assert sealed == judged(tweak, data, unit)
    assert key.decrypt(tweak, sealed, data_unit_bytes=unit) == data


def test_sixteen_mebibytes_and_no_more(key: AesXtsKey) -> None:
    data = os.urandom(16 << 20)
    sealed = key.encrypt(bytes(16), data, 4096)
    assert sealed == judged(bytes(16), data, 4096)
    assert key.decrypt(bytes(16), sealed, 4096) == data
    with pytest.raises(ArgumentError, match="encrypt: data: 16777232 bytes, at most 16777216"):
        key.encrypt(bytes(16), data + bytes(16))


def test_a_key_that_the_device_made(hsm: Hsm) -> None:
    key = cast(AesXtsKey, hsm.generate("made", "aes256-xts"))
    data = bytes(64)
    sealed = key.encrypt(bytes(16), data)
    assert sealed != data
    assert cast(AesXtsKey, hsm["made"]).decrypt(bytes(16), sealed) == data


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((bytes(15), bytes(16)), ArgumentError, "encrypt: tweak: 15 bytes, must be 16"),
        ((5, bytes(16)), ArgumentTypeError, "encrypt: tweak: int"),
        ((bytes(16), "text"), ArgumentTypeError, "encrypt: data: str"),
        ((bytes(16), b""), ArgumentError, "encrypt: data: 0 bytes, a multiple of 16"),
        ((bytes(16), bytes(17)), ArgumentError, "encrypt: data: 17 bytes, a multiple of 16"),
        ((bytes(16), bytes(528), 512), ArgumentError, "encrypt: data: 528 bytes are no whole number of units of 512"),
        ((bytes(16), bytes(512), 256), ArgumentError, "encrypt: data_unit_bytes: 256"),
        ((bytes(16), bytes(512), "x"), ArgumentTypeError, "encrypt: data_unit_bytes: str"),
        ((bytes(16), np.zeros((32, 32), np.uint8)[:, ::2]), ArgumentError, "encrypt: data: .* one after the other"),
    ],
)
def test_what_cannot_be_encrypted(key: AesXtsKey, arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        key.encrypt(*arguments)


def test_arrays_are_taken_as_bytes(key: AesXtsKey) -> None:
    data = np.arange(1024, dtype=np.uint16).astype(np.uint8).reshape(32, 32)
    assert key.encrypt(bytes(16), data) == judged(bytes(16), data.tobytes(), 0)


def test_awaited(key: AesXtsKey) -> None:
    async def main() -> None:
        data = [os.urandom(1024) for _ in range(100)]
        sealed = await asyncio.gather(*(key.encrypt_async(bytes(16), each, 512) for each in data))
        assert sealed == [judged(bytes(16), each, 512) for each in data]
        assert await asyncio.gather(*(key.decrypt_async(bytes(16), each, 512) for each in sealed)) == data

    asyncio.run(main())
