# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""More bulk keys than a device has slots for (spec 05 §5.6), used by many, deleted meanwhile, and lost with the device.

That each result is right under its own key is what shows that nobody was given another's.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm import Hsm
from ihsm.api.cbc import AesCbcKey
from ihsm.api.connection import Link
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.gcm import AesGcmKey
from ihsm.api.hmac_key import HmacKey
from ihsm.api.kinds import Usage
from ihsm.api.residents import Residents
from ihsm.api.steps import CurrentLink, Procedure
from ihsm.api.xts import AesXtsKey
from ihsm.ddi import Key, StatusError
from ihsm.errors import KeyNotFoundError, SessionClosedError
from ihsm.procedures import perform
from ihsm_abi.ddi import AesOp, DdiStatus, KeyType
from support.waiting import HANG_S, ended, together, until

XTS_KEYS = 8
GCM_KEYS = 10
NONCE, TWEAK = bytes(12), bytes(16)


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        yield hsm


def xts(secret: bytes, data: bytes) -> bytes:
    return Cipher(algorithms.AES(secret), modes.XTS(TWEAK)).encryptor().update(data)


@pytest.fixture(scope="module")
def gcm_keys(hsm: Hsm) -> list[tuple[AesGcmKey, bytes]]:
    secrets = [os.urandom(32) for _ in range(GCM_KEYS)]
    return [
        (cast(AesGcmKey, hsm.import_key(f"gcm{number}", secret, kind="aes256-gcm")), secret)
        for number, secret in enumerate(secrets)
    ]


@pytest.fixture(scope="module")
def xts_keys(hsm: Hsm) -> list[tuple[AesXtsKey, bytes]]:
    secrets = [os.urandom(64) for _ in range(XTS_KEYS)]
    return [
        (cast(AesXtsKey, hsm.import_key(f"xts{number}", secret, kind="aes256-xts")), secret)
        for number, secret in enumerate(secrets)
    ]


def test_one_after_the_other(gcm_keys: list[tuple[AesGcmKey, bytes]], xts_keys: list[tuple[AesXtsKey, bytes]]) -> None:
    for _ in range(2):
        for gcm_key, secret in gcm_keys:
            assert gcm_key.encrypt(NONCE, b"text", b"a") == AESGCM(secret).encrypt(NONCE, b"text", b"a")
        for xts_key, secret in xts_keys:
            assert xts_key.encrypt(TWEAK, bytes(64)) == xts(secret, bytes(64))


def test_sixteen_threads_with_two_keys_each(xts_keys: list[tuple[AesXtsKey, bytes]]) -> None:
    def work(number: int) -> None:
        for turn in range(6):
            key, secret = xts_keys[(number * 3 + turn) % XTS_KEYS]
            data = os.urandom(512)
            assert key.encrypt(TWEAK, data) == xts(secret, data)

    together(16, work)


def test_all_kinds_at_once(gcm_keys: list[tuple[AesGcmKey, bytes]], xts_keys: list[tuple[AesXtsKey, bytes]]) -> None:
    nonces = np.zeros((300, 12), np.uint8)
    nonces[:, 0], nonces[:, 1] = np.arange(300) % 256, np.arange(300) // 256

    def work(number: int) -> None:
        for turn in range(4):
            data = os.urandom(192)
            if number % 2:
                key, secret = xts_keys[(number + turn) % XTS_KEYS]
                assert key.encrypt(TWEAK, data) == xts(secret, data)
            else:
                gcm_key, secret = gcm_keys[(number + turn) % GCM_KEYS]
                assert gcm_key.decrypt(NONCE, AESGCM(secret).encrypt(NONCE, data, None), None) == data
                sealed = gcm_key.encrypt_many(nonces, np.zeros((300, 8), np.uint8))
                assert sealed[299].tobytes() == AESGCM(secret).encrypt(nonces[299].tobytes(), bytes(8), None)

    together(12, work)


def test_coroutines(gcm_keys: list[tuple[AesGcmKey, bytes]]) -> None:
    async def main() -> None:
        expected = [AESGCM(secret).encrypt(NONCE, bytes([n]), None) for n in range(10) for _, secret in gcm_keys]
        assert expected == await asyncio.gather(
            *(key.encrypt_async(NONCE, bytes([n]), None) for n in range(10) for key, _ in gcm_keys)
        )

    asyncio.run(main())


def test_a_key_is_deleted_when_nobody_uses_it_any_more(hsm: Hsm) -> None:
    """Its slot would be another key's at once."""
    key = hsm.generate("held", "aes256-gcm")
    begun, may_end = threading.Event(), threading.Event()
    reports: list[bytes] = []

    def hold(resident: Key) -> Procedure[None]:
        begun.set()
        assert may_end.wait(HANG_S)
        link: Link = yield CurrentLink()
        reports.append(link.session.attest(resident, bytes(128)))

    user = threading.Thread(target=lambda: key._handle.run("hold", Usage.ENCRYPT, hold), daemon=True)
    user.start()
    assert begun.wait(HANG_S)
    deleter = threading.Thread(target=lambda: hsm.delete("held"), daemon=True)
    deleter.start()
    residents = hsm.connection.link.residents
    until(lambda: residents._leaving, "the deletion waits")
    assert "held" not in hsm
    may_end.set()
    ended(user, deleter)
    assert reports
    assert not residents._leaving


def test_use_while_another_thread_deletes(hsm: Hsm) -> None:
    secrets = [os.urandom(32) for _ in range(8)]
    keys = [
        cast(AesGcmKey, hsm.import_key(f"doomed{number}", secret, kind="aes256-gcm"))
        for number, secret in enumerate(secrets)
    ]

    def work(number: int) -> None:
        if number < 2:
            for each in range(number, 8, 2):
                hsm.delete(f"doomed{each}")
            return
        for turn in range(30):
            which = (number + turn) % 8
            try:
                sealed = keys[which].encrypt(NONCE, b"text", None)
            except KeyNotFoundError:
                continue
            assert sealed == AESGCM(secrets[which]).encrypt(NONCE, b"text", None)

    together(6, work)
    assert not [label for label in hsm if label.startswith("doomed")]
    for key in keys:
        with pytest.raises(KeyNotFoundError):
            key.encrypt(NONCE, b"text", None)


@pytest.fixture(scope="module")
def every_class(hsm: Hsm) -> list[Callable[[], None]]:
    """For each class a check that its key still is the one that it was."""
    own, peer = cast(EcPrivateKey, hsm.generate("own", "p256", usage="agree")), ec.generate_private_key(ec.SECP256R1())
    secret, sha = own.agree(peer.public_key()), hashes.SHA256()
    gcm = cast(AesGcmKey, secret.hkdf(sha, kind="aes256-gcm"))
    cbc = cast(AesCbcKey, secret.hkdf(sha, kind="aes256", info=b"cbc"))
    xts_key = cast(AesXtsKey, secret.hkdf(sha, kind="aes256-xts", info=(b"d", b"t")))
    mac = cast(HmacKey, secret.hkdf(sha, kind="hmac-sha256", info=b"mac"))
    nonces = np.arange(2400, dtype=np.uint16).view(np.uint8).reshape(400, 12)
    messages = np.zeros((400, 40), np.uint8)
    sealed, sealed_many = gcm.encrypt(NONCE, b"text", b"a"), gcm.encrypt_many(nonces, messages)
    works: list[Callable[[], bytes]] = [
        lambda: gcm.encrypt(NONCE, b"text", b"a"),
        lambda: gcm.decrypt(NONCE, sealed, b"a"),
        lambda: gcm.encrypt_many(nonces, messages).tobytes(),
        lambda: gcm.decrypt_many(nonces, sealed_many).tobytes(),
        lambda: cbc.encrypt(TWEAK, bytes(2048)),
        lambda: xts_key.encrypt(TWEAK, bytes(4096), 512),
        lambda: mac.sign(b"text"),
        lambda: cast(HmacKey, secret.hkdf(sha, kind="hmac-sha512", info=b"again")).sign(b"text"),
        lambda: cast(HmacKey, own.agree(peer.public_key()).kbkdf(sha, kind="hmac-sha256")).sign(b"text"),
    ]

    def check_of(work: Callable[[], bytes]) -> Callable[[], None]:
        before = work()

        def check() -> None:
            assert work() == before

        return check

    return [check_of(work) for work in works]


def test_every_class_after_a_reset(hsm: Hsm, every_class: list[Callable[[], None]]) -> None:
    for check in every_class:
        lost = hsm.connection.link
        lost.device.reset(subsystem=True)
        check()
        assert hsm.connection.link is not lost
        check()


def test_resets_under_work(hsm: Hsm, every_class: list[Callable[[], None]]) -> None:
    """Whatever is on its way when the device is lost is done once more, and never with another's key."""
    over = threading.Event()
    done = [0] * 4

    def work(number: int) -> None:
        if number == 0:
            try:
                for _ in range(4):
                    hsm.connection.link.device.reset(subsystem=True)
                    before = list(done)
                    # A call is repeated once only: each has to see one loss at most.
                    until(lambda before=before: all(map(two_more, before[1:], done[1:])), "all go on")  # type: ignore[misc]
            finally:
                over.set()
            return
        try:
            while not over.is_set():
                every_class[(number + done[number]) % len(every_class)]()
                done[number] += 1
        finally:
            done[number] += 1 << 30  # not waited for if it failed

    def two_more(before: int, now: int) -> bool:
        return now >= before + 2

    together(4, work)


def test_a_session_that_was_lost_is_refused(hsm: Hsm, gcm_keys: list[tuple[AesGcmKey, bytes]]) -> None:
    """Its key ids are other keys' by then."""
    lost = hsm.connection.link
    lost.device.reset(subsystem=True)
    key, secret = gcm_keys[0]
    assert key.encrypt(NONCE, b"text", None) == AESGCM(secret).encrypt(NONCE, b"text", None)
    assert hsm.connection.link is not lost
    queue = lost.device.aes_queues[0]
    with pytest.raises(SessionClosedError):
        queue.gcm_encrypt(lost.session.fast_path, 1, b"text", timeout_s=HANG_S)
    with pytest.raises(SessionClosedError):
        queue.submit(np.zeros(3, queue.ring.sqe), HANG_S, None, lost.session.fast_path)
    with pytest.raises(SessionClosedError):
        lost.session.aes_cbc(Key(1, KeyType.Aes128), AesOp.Encrypt, bytes(16), bytes(16))


def test_no_room_even_alone() -> None:
    """With the slots taken by others there is an error, and no waiting for ever."""

    def nothing(*keys: Key) -> Procedure[None]:
        yield CurrentLink()

    with Hsm.private() as hsm:
        keys = [hsm.generate(f"k{number}", "aes256-gcm") for number in range(7)]
        link = hsm.connection.link
        link.residents = Residents()  # what was made before is nobody's whom it could send away
        with pytest.raises(StatusError) as caught:
            perform(link.residents.held(keys[0]._handle.some, nothing), link)
        assert caught.value.status is DdiStatus.ReachedMaxAesBulkKeys

        def work(number: int) -> None:
            with pytest.raises(StatusError):
                perform(link.residents.held(keys[number]._handle.some, nothing), link)

        together(7, work)
