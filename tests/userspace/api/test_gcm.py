# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-GCM keys: another library's AESGCM under the same key is the judge, in both directions."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm import Hsm
from ihsm.api.errors import NonceRefusedError, TagMismatchError
from ihsm.api.gcm import AesGcmKey
from ihsm.driver.buffers import MAX_BUFFER_BYTES
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm.procedures import perform
from support.waiting import one_round


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


SECRET = os.urandom(32)
JUDGE = AESGCM(SECRET)
NONCE = bytes(range(12))


@pytest.fixture(scope="module")
def key(hsm: Hsm) -> AesGcmKey:
    return cast(AesGcmKey, hsm.import_key("gcm", SECRET, kind="aes256-gcm"))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 64, 480, 511, 512, 513, 4097, 70000])
@pytest.mark.parametrize("aad", [None, b"", b"a", bytes(16), bytes(range(17)), bytes(32), bytes(range(100))])
def test_both_libraries_agree(key: AesGcmKey, size: int, aad: bytes | None) -> None:
    nonce, data = os.urandom(12), os.urandom(size)
    sealed = key.encrypt(nonce, data, aad)
    assert sealed == JUDGE.encrypt(nonce, data, aad)
    assert key.decrypt(nonce, sealed, aad) == data


def test_a_message_that_the_arena_has_no_room_for(hsm: Hsm, key: AesGcmKey) -> None:
    controller = hsm.connection.link.device
    size, free = controller.arena.size_bytes + 5, controller.arena.free_bytes
    data = os.urandom(size)
    sealed = key.encrypt(NONCE, data, b"head")
    assert sealed == JUDGE.encrypt(NONCE, data, b"head")
    assert key.decrypt(NONCE, sealed, b"head") == data
    assert controller.arena.free_bytes == free


def test_no_more_than_a_buffer_can_have(key: AesGcmKey) -> None:
    data = np.zeros(MAX_BUFFER_BYTES - 31, np.uint8)
    with pytest.raises(
        ArgumentError, match=rf"encrypt: data: {MAX_BUFFER_BYTES + 1} bytes .* at most {MAX_BUFFER_BYTES}"
    ):
        key.encrypt(NONCE, data, b"x")


@pytest.mark.parametrize("damage", ["nonce", "data", "tag", "associated data"])
def test_a_wrong_tag_is_an_invalid_tag(key: AesGcmKey, damage: str) -> None:
    sealed = bytearray(key.encrypt(NONCE, b"text" * 10, b"head"))
    if damage in ("data", "tag"):
        sealed[0 if damage == "data" else -1] ^= 1
    nonce = bytes(12) if damage == "nonce" else NONCE
    aad = b"tail" if damage == "associated data" else b"head"
    for error in (TagMismatchError, InvalidTag):
        with pytest.raises(error):
            key.decrypt(nonce, sealed, aad)
    buf = bytearray(b"." * 40)
    with pytest.raises(TagMismatchError, match="decrypt_into: "):
        key.decrypt_into(nonce, sealed, aad, buf)
    assert buf == b"." * 40


@pytest.mark.parametrize("size", range(16))
def test_what_is_shorter_than_a_tag_has_no_valid_one(key: AesGcmKey, size: int) -> None:
    with pytest.raises(TagMismatchError):
        key.decrypt(NONCE, bytes(size), None)
    with pytest.raises(TagMismatchError):
        key.decrypt_into(NONCE, bytes(size), None, bytearray())


@pytest.mark.parametrize("size", [0, 20, 512, 600, 100000])
@pytest.mark.parametrize(
    "make", [bytearray, lambda size: np.zeros(size, np.uint8), lambda size: memoryview(bytearray(size))]
)
def test_into_memory_of_the_callers(key: AesGcmKey, size: int, make: Any) -> None:
    data, around = os.urandom(size), bytearray(b"#" * (size + 16 + 8))
    assert key.encrypt_into(NONCE, data, b"head", memoryview(around)[4:-4]) == size + 16
    assert bytes(around) == b"####" + JUDGE.encrypt(NONCE, data, b"head") + b"####"
    buf = make(size + 16)
    key.encrypt_into(NONCE, data, b"head", buf)
    opened = make(size)
    assert key.decrypt_into(NONCE, buf, b"head", opened) == size
    assert bytes(opened) == data


def test_data_and_result_may_be_the_same_memory(key: AesGcmKey) -> None:
    memory = bytearray(b"p" * 1000 + bytes(16))
    key.encrypt_into(NONCE, memoryview(memory)[:1000], None, memory)
    assert memory == JUDGE.encrypt(NONCE, b"p" * 1000, None)
    key.decrypt_into(NONCE, memory, None, memoryview(memory)[:1000])
    assert memory[:1000] == b"p" * 1000


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((bytes(11), b"", None), ArgumentError, "encrypt: nonce: 11 bytes, must be 12"),
        ((b"", b"", None), ArgumentError, "nonce: 0 bytes"),
        (("x" * 12, b"", None), ArgumentTypeError, "encrypt: nonce: str"),
        ((NONCE, "text", None), ArgumentTypeError, "encrypt: data: str"),
        ((NONCE, 5, None), ArgumentTypeError, "encrypt: data: int"),
        ((NONCE, np.zeros(4, np.uint16), None), ArgumentTypeError, "encrypt: data: ndarray of larger items"),
        ((NONCE, np.zeros((4, 4), np.uint8).T[1:3], None), ArgumentError, "encrypt: data: .* one after the other"),
        ((NONCE, b"", "head"), ArgumentTypeError, "encrypt: associated_data: str"),
    ],
)
def test_what_cannot_be_encrypted(key: AesGcmKey, arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        key.encrypt(*arguments)


@pytest.mark.parametrize(
    ("buf", "error", "words"),
    [
        (bytearray(19), ArgumentError, "encrypt_into: buf: 19 bytes, must be 20"),
        (bytearray(21), ArgumentError, "buf: 21 bytes"),
        (bytes(20), ArgumentTypeError, "buf: bytes that cannot be written"),
        ([0] * 20, ArgumentTypeError, "buf: list"),
        (np.zeros(40, np.uint8)[::2], ArgumentError, "buf: .* one after the other"),
    ],
)
def test_memory_that_cannot_be_written_into(key: AesGcmKey, buf: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        key.encrypt_into(NONCE, b"text", None, buf)


def test_awaited(key: AesGcmKey) -> None:
    async def main() -> None:
        nonces = [os.urandom(12) for _ in range(300)]
        changing = [bytearray(os.urandom(100)) for _ in nonces]
        given = [bytes(each) for each in changing]
        pending = [asyncio.ensure_future(key.encrypt_async(*each, b"h")) for each in zip(nonces, changing, strict=True)]
        sealed = await asyncio.gather(*pending)
        assert sealed == [JUDGE.encrypt(nonce, data, b"h") for nonce, data in zip(nonces, given, strict=True)]
        opened = await asyncio.gather(
            *(key.decrypt_async(nonce, each, b"h") for nonce, each in zip(nonces, sealed, strict=True))
        )
        assert opened == given
        with pytest.raises(TagMismatchError):
            await key.decrypt_async(nonces[0], sealed[1], b"h")

    asyncio.run(main())


def test_awaited_data_are_those_of_the_call(hsm: Hsm, key: AesGcmKey) -> None:
    """However long it takes until the device has them."""
    link = hsm.connection.link
    perform(link.residents.rest(key._handle.some), link)

    async def main() -> None:
        data = bytearray(b"text")
        pending = asyncio.ensure_future(key.encrypt_async(NONCE, data, None))
        await one_round()
        assert not pending.done()  # the key is on its way into the device
        data[:] = b"else"
        assert await pending == JUDGE.encrypt(NONCE, b"text", None)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["aes256-gcm", "aes256-gcm-approved"])
def test_a_key_that_the_device_made(hsm: Hsm, kind: str) -> None:
    key = cast(AesGcmKey, hsm.generate(kind, kind))
    data, nonces = b"text", np.arange(24, dtype=np.uint8).reshape(2, 12)
    sealed = key.encrypt(NONCE, data, None)
    assert sealed[:4] != data
    assert key.decrypt(NONCE, sealed, None) == data
    assert cast(AesGcmKey, hsm[kind]).decrypt(NONCE, sealed, None) == data
    assert key.encrypt_many(nonces, np.zeros((2, 4), np.uint8)).shape == (2, 20)


def test_a_device_that_draws_its_own_nonces(tmp_path: Any) -> None:
    with (
        EmbeddedDevice(["--profile", "firmware", "--state", str(tmp_path / "state")]) as device,
        Hsm.create("firmware", device=f"vfio-user:{device.socket_path}", root=tmp_path / "stores") as hsm,
    ):
        approved = cast(AesGcmKey, hsm.import_key("approved", SECRET, kind="aes256-gcm-approved"))
        buf = bytearray(20)
        for attempt in (
            lambda: approved.encrypt(NONCE, b"text", None),
            lambda: approved.encrypt_into(NONCE, b"text", None, buf),
            lambda: asyncio.run(approved.encrypt_async(NONCE, b"text", None)),
            lambda: approved.encrypt_many(np.zeros((1, 12), np.uint8), np.zeros((1, 4), np.uint8)),
        ):
            with pytest.raises(NonceRefusedError, match=r"nonce: .* draws its own .* kind aes256-gcm"):
                attempt()
        assert buf == bytes(20)
        assert approved.decrypt(NONCE, JUDGE.encrypt(NONCE, b"text", b"h"), b"h") == b"text"
        key = cast(AesGcmKey, hsm.import_key("gcm", SECRET, kind="aes256-gcm"))
        assert key.encrypt(NONCE, b"text", b"h") == JUDGE.encrypt(NONCE, b"text", b"h")


def test_a_key_is_for_what_it_was_made_for(hsm: Hsm) -> None:
    for kind, usage in itertools.product(("aes256-gcm", "aes256-xts", "aes128"), ("sign", "agree")):
        with pytest.raises(ArgumentError, match=f"usage: '{usage}', a {kind} key has encrypt"):
            hsm.generate("never", kind, usage=usage)
