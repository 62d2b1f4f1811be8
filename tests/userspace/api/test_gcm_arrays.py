# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-GCM over arrays of messages: each as another library has it, and none given out if one does not verify."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from ihsm import Hsm
from ihsm.api.errors import TagMismatchError
from ihsm.api.gcm import AesGcmKey
from ihsm.api.gcm_arrays import BATCH_BYTES, repeated
from ihsm.driver import AesQueue, DriverOptions
from ihsm.errors import ArgumentError, ArgumentTypeError, IhsmError
from support.waiting import together


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


SECRET = os.urandom(32)
JUDGE = AESGCM(SECRET)
Octets = NDArray[np.uint8]


@pytest.fixture(scope="module")
def key(hsm: Hsm) -> AesGcmKey:
    return cast(AesGcmKey, hsm.import_key("gcm", SECRET, kind="aes256-gcm"))


def random(*shape: int) -> Octets:
    return np.frombuffer(os.urandom(int(np.prod(shape))), np.uint8).reshape(shape)


def judged(nonces: Octets, messages: Octets, aad: bytes) -> list[bytes]:
    return [
        JUDGE.encrypt(nonce.tobytes(), message.tobytes(), aad) for nonce, message in zip(nonces, messages, strict=True)
    ]


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 5), (1, 0), (3, 1), (63, 16), (64, 100), (255, 64), (256, 64), (1000, 65), (3000, 32), (20, BATCH_BYTES // 3)],
)
@pytest.mark.parametrize("aad", [b"", b"short", bytes(range(40))])
def test_each_message_as_another_library_has_it(key: AesGcmKey, count: int, size: int, aad: bytes) -> None:
    nonces, messages = random(count, 12), random(count, size)
    sealed = key.encrypt_many(nonces, messages, aad)
    assert sealed.shape == (count, size + 16)
    assert sealed.dtype == np.uint8
    assert [row.tobytes() for row in sealed] == judged(nonces, messages, aad)
    opened = key.decrypt_many(nonces, sealed, aad)
    assert opened.shape == (count, size)
    assert (opened == messages).all()


def test_messages_larger_than_a_batch(hsm: Hsm, key: AesGcmKey) -> None:
    free = hsm.connection.link.device.arena.free_bytes
    nonces, messages = random(3, 12), random(3, (5 << 20) + 3)
    sealed = key.encrypt_many(nonces, messages)
    assert [row.tobytes() for row in sealed] == judged(nonces, messages, b"")
    assert hsm.connection.link.device.arena.free_bytes == free


def test_arrays_need_not_be_contiguous(key: AesGcmKey) -> None:
    nonces, messages = random(24, 600)[::-1, ::50], random(70, 48).T[::2]
    assert not messages.flags.c_contiguous
    sealed = key.encrypt_many(nonces, messages, b"a")
    assert [row.tobytes() for row in sealed] == judged(nonces, messages, b"a")
    spread = np.zeros((48, 172), np.uint8)[::2, ::2]
    spread[:] = sealed
    assert (key.decrypt_many(nonces, spread, b"a") == messages).all()


def test_messages_that_do_not_verify_are_named(key: AesGcmKey) -> None:
    nonces, messages = random(900, 12), random(900, 33)
    sealed = key.encrypt_many(nonces, messages, b"a")
    wrong = [0, 300, 301, 899]
    sealed[wrong, [0, 32, 33, 48]] ^= 0x80
    with pytest.raises(
        TagMismatchError, match=r"decrypt_many: tags do not match: messages 0, 300, 301, 899$"
    ) as caught:
        key.decrypt_many(nonces, sealed, b"a")
    assert caught.value.indices == tuple(wrong)
    with pytest.raises(TagMismatchError, match=r"messages 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 890 more"):
        key.decrypt_many(nonces, sealed, b"b")
    with pytest.raises(TagMismatchError, match=r"message 0$"):
        key.decrypt_many(nonces[:1], sealed[:1], b"a")


@pytest.mark.parametrize(
    ("nonces", "messages", "error", "words"),
    [
        ([[0] * 12], random(1, 4), ArgumentTypeError, "encrypt_many: nonces: list, must be an array"),
        (random(1, 12).astype(np.int64), random(1, 4), ArgumentTypeError, "nonces: array of int64"),
        (random(1, 12), b"text", ArgumentTypeError, "messages: bytes, must be an array"),
        (random(1, 12), np.zeros((1, 4)), ArgumentTypeError, "messages: array of float64"),
        (random(1, 12), random(4), ArgumentError, r"messages: shape \(4,\), \(n, m\) needed"),
        (random(12), random(1, 4), ArgumentError, r"nonces: shape \(12,\), \(1, 12\) needed"),
        (random(2, 12), random(1, 4), ArgumentError, r"nonces: shape \(2, 12\), \(1, 12\) needed"),
        (random(1, 16), random(1, 4), ArgumentError, r"nonces: shape \(1, 16\)"),
        (np.zeros((2, 12), np.uint8), random(2, 4), ArgumentError, "nonces: one comes twice"),
    ],
)
def test_arrays_that_cannot_be(key: AesGcmKey, nonces: Any, messages: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        key.encrypt_many(nonces, messages)


def test_sealed_messages_have_tags(key: AesGcmKey) -> None:
    with pytest.raises(ArgumentError, match="decrypt_many: messages: rows of 15 bytes"):
        key.decrypt_many(random(2, 12), random(2, 15))


def test_nonces_that_come_twice() -> None:
    counters = np.zeros((5000, 12), np.uint8)
    counters[:, 8:] = np.arange(5000, dtype=">u4").view(np.uint8).reshape(-1, 4)
    assert not repeated(counters)
    assert not repeated(counters[:, ::-1])
    assert not repeated(random(5000, 12))
    ends = np.array([[1] + [0] * 11, [0] * 11 + [1], [1] + [0] * 10 + [1], [0] * 12], np.uint8)
    assert not repeated(ends)
    assert repeated(np.concatenate([counters, counters[77:78]]))
    assert repeated(np.concatenate([ends, ends[2:3]]))


def test_awaited(key: AesGcmKey) -> None:
    async def main() -> None:
        nonces, messages = random(700, 12), random(700, 20)
        first, second = await asyncio.gather(
            key.encrypt_many_async(nonces, messages, b"a"), key.encrypt_many_async(nonces, messages, b"b")
        )
        assert [row.tobytes() for row in first] == judged(nonces, messages, b"a")
        assert [row.tobytes() for row in second] == judged(nonces, messages, b"b")
        assert (await key.decrypt_many_async(nonces, first, b"a") == messages).all()

    asyncio.run(main())


def test_threads_share_the_queues(key: AesGcmKey) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        nonces, messages = random(1500, 12), random(1500, 40 + number)
        if [row.tobytes() for row in key.encrypt_many(nonces, messages)] != judged(nonces, messages, b""):
            wrong.append(number)

    together(6, work)
    assert not wrong


@pytest.mark.parametrize("options", [{"aes_queues": 1}, {"aes_entries": 2}, {"aes_queues": 1, "aes_entries": 3}])
def test_few_queues_and_small_rings(options: dict[str, Any]) -> None:
    with Hsm.private(options=DriverOptions(**options)) as hsm:
        key = cast(AesGcmKey, hsm.import_key("gcm", SECRET, kind="aes256-gcm"))
        nonces, messages = random(300, 12), random(300, 24)
        sealed = key.encrypt_many(nonces, messages)
        assert [row.tobytes() for row in sealed] == judged(nonces, messages, b"")


def test_all_queues_are_used(hsm: Hsm, key: AesGcmKey, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = hsm.connection.link.device.aes_queues
    used: list[object] = []
    for queue in queues:
        submit = queue.submit

        def noted(*arguments: Any, queue: AesQueue = queue, submit: Any = submit) -> Any:
            used.append(queue)
            return submit(*arguments)

        monkeypatch.setattr(queue, "submit", noted)
    key.encrypt_many(random(2000, 12), random(2000, 64))
    assert len(queues) > 1
    assert set(used) == set(queues)


def test_without_queues() -> None:
    with Hsm.private(options=DriverOptions(aes_queues=0)) as hsm:
        key = cast(AesGcmKey, hsm.import_key("gcm", SECRET, kind="aes256-gcm"))
        for attempt in (
            lambda: key.encrypt(bytes(12), b"", None),
            lambda: key.encrypt_many(random(1, 12), random(1, 1)),
        ):
            with pytest.raises(IhsmError, match="aes_queues=0: there is no AES queue"):
                attempt()
