# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Handles, owners, hooks, growth, threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ihsm_device.hsm.keystore import (
    ArgumentError,
    Curve,
    Handle,
    Hash,
    HooksDisabledError,
    KeyStore,
    Kind,
    Owner,
    PairwiseTest,
    Scope,
    StaleHandleError,
)
from support.waiting import ended, until

OWNER = Owner()


def test_only_one_store(store: KeyStore) -> None:
    with pytest.raises(RuntimeError):
        KeyStore()
    store.close()
    with KeyStoreOpened() as again:
        assert again.statistics().keys == 0


class KeyStoreOpened:
    """A store without hooks and faults."""

    def __enter__(self) -> KeyStore:
        self._store = KeyStore()
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def uses(store: KeyStore) -> list[Callable[[Handle], object]]:
    return [
        store.size,
        store.kind,
        store.destroy,
        store.is_zero,
        store.ec_public,
        store.rsa_public,
        store.masked_plaintext_size,
        lambda key: store.set_owner(key, OWNER),
        lambda key: store.slice(key, 0, 1, OWNER),
        lambda key: store.secrets_equal(key, key),
        lambda key: store.hmac(key, Hash.SHA256, b""),
        lambda key: store.aes_cbc(key, encrypt=True, iv=bytes(16), data=bytes(16)),
        lambda key: store.ec_sign(key, bytes(32)),
        lambda key: store.ec_pairwise_test(key, PairwiseTest.SIGN),
        lambda key: store.rsa_private(key, bytes(256)),
        lambda key: store.hkdf(key, Hash.SHA256, None, b"", 32, OWNER),
        lambda key: store.kbkdf(key, Hash.SHA256, b"", [], 32, OWNER),
        lambda key: store.mask(key, key, b"", bytes(16), 32),
        lambda key: store.seal(key, key, b""),
        lambda key: store.credential_id(key),
    ]


def test_a_destroyed_key_is_gone_for_every_operation(store: KeyStore) -> None:
    for make in (lambda: store.generate_secret(32, OWNER), lambda: store.ec_generate(Curve.P256, OWNER)):
        key = make()
        store.destroy(key)
        replacement = make()
        assert replacement != key
        for use in uses(store):
            with pytest.raises(StaleHandleError):
                use(key)
        assert store.size(replacement) == 32


def test_handles_that_never_were(store: KeyStore) -> None:
    real = store.generate_secret(32, OWNER)
    for handle in (0, 1, real + 1, real ^ (1 << 24), real | (1 << 63), 2**64 - 1):
        for use in uses(store):
            with pytest.raises(StaleHandleError):
                use(Handle(handle))


def test_handles_never_return(store: KeyStore) -> None:
    seen = set()
    for _ in range(5000):
        key = store.import_secret(b"x", OWNER)
        assert key not in seen
        seen.add(key)
        store.destroy(key)


def test_groups(store: KeyStore) -> None:
    keys = {
        owner: [store.generate_secret(16, owner) for _ in range(3)]
        for owner in (
            Owner(),
            Owner(0, Scope.IDENTITY),
            Owner(0, Scope.PARTITION),
            Owner(0, Scope.SESSION, 0),
            Owner(0, Scope.SESSION, 7),
            Owner(1, Scope.PARTITION),
            Owner(1, Scope.SESSION, 7),
        )
    }

    def alive() -> set[Owner]:
        found = set()
        for owner, handles in keys.items():
            try:
                found.add((owner, [store.size(key) for key in handles] and owner)[1])
            except StaleHandleError:
                continue
        return found

    everything = set(keys)
    assert store.destroy_group(function=0, session=7) == 3
    assert alive() == everything - {Owner(0, Scope.SESSION, 7)}
    assert store.destroy_group(function=0, scope=Scope.PARTITION) == 3
    assert store.destroy_group(function=0, scope=Scope.SESSION) == 3
    assert alive() == {Owner(), Owner(0, Scope.IDENTITY), Owner(1, Scope.PARTITION), Owner(1, Scope.SESSION, 7)}
    moved = keys[Owner(1, Scope.PARTITION)].pop()
    store.set_owner(moved, Owner(1, Scope.IDENTITY))
    assert store.destroy_group(scope=Scope.PARTITION) == 2
    assert store.size(moved) == 16
    assert store.destroy_group(function=-1) == 3
    assert store.destroy_group() == 7
    assert store.statistics().keys == 0


def test_slices_and_comparison(store: KeyStore) -> None:
    whole = store.import_secret(bytes(range(80)), OWNER)
    part = store.slice(whole, 32, 48, OWNER)
    assert store.hook_reveal(part) == bytes(range(32, 80))
    assert store.secrets_equal(part, store.import_secret(bytes(range(32, 80)), OWNER))
    assert not store.secrets_equal(part, whole)
    assert not store.secrets_equal(part, store.import_secret(bytes(range(32, 79)) + b"\0", OWNER))
    assert store.is_zero(store.import_secret(bytes(16), OWNER))
    assert not store.is_zero(store.import_secret(bytes(15) + b"\x01", OWNER))
    for offset, length in ((0, 0), (0, 81), (80, 1), (79, 2), (2**63, 1), (1, 2**64 - 1)):
        with pytest.raises(ArgumentError):
            store.slice(whole, offset, length, OWNER)
    for value in (b"", bytes(4097)):
        with pytest.raises(ArgumentError):
            store.import_secret(value, OWNER)


def test_injected_randomness(store: KeyStore) -> None:
    scalar = (0x1122334455667788).to_bytes(32, "big")
    for value in (b"n" * 32, b"s" * 48, scalar):
        store.hook_push_random(value)
    assert store.random(32) == b"n" * 32
    with pytest.raises(ArgumentError):
        store.random(47)
    assert store.hook_reveal(store.generate_secret(48, OWNER)) == b"s" * 48
    public = store.ec_public(store.ec_generate(Curve.P256, OWNER))
    assert public[1:33].hex() == "966486710ddefb75558eaab23cf5633ce0602eec129106f392b54932e1f669e8"
    assert store.random(32) != store.random(32)
    assert store.random(0) == b""
    with pytest.raises(ArgumentError):
        store.random(65537)


def test_injected_randomness_ends_with_its_store(store: KeyStore) -> None:
    """What nobody has drawn is no random number of the next one, nor does it take memory there."""
    before = store.statistics().bytes_in_use
    for value in (b"n" * 32, b"m" * 32):
        store.hook_push_random(value)
    assert store.statistics().bytes_in_use > before
    store.close()
    with KeyStoreOpened() as again:
        assert again.statistics().bytes_in_use == before
        assert again.random(32) not in (b"n" * 32, b"m" * 32)


def test_hooks_need_their_switch() -> None:
    with KeyStoreOpened() as store:
        key = store.generate_secret(32, OWNER)
        assert not store.validation_hooks
        for hook in (lambda: store.hook_reveal(key), lambda: store.hook_push_random(b"x"),
                     lambda: store.hook_aes_ecb_decrypt(key, bytes(16))):  # fmt: skip
            with pytest.raises(HooksDisabledError):
                hook()


def test_random_values_differ(store: KeyStore) -> None:
    values = {store.hook_reveal(store.generate_secret(32, OWNER)) for _ in range(200)}
    assert len(values) == 200
    ones = sum(int.from_bytes(value).bit_count() for value in values)
    assert abs(ones - 200 * 128) < 6 * (200 * 256 / 4) ** 0.5


def cycle(store: KeyStore) -> None:
    owner = Owner(3, Scope.PARTITION)
    secret = store.generate_secret(48, owner)
    store.kbkdf(secret, Hash.SHA384, b"label", [secret], 80, owner)
    store.hkdf(secret, Hash.SHA256, None, b"", 64, owner)
    key = store.ec_generate(Curve.P256, owner)
    store.ec_sign(key, bytes(32))
    masking = store.generate_secret(80, owner)
    blob = store.mask(key, masking, bytes(68), bytes(16), 112)
    store.unmask_ec(masking, blob, bytes(16), 68, 112, Curve.P256, owner)
    store.ec_agree(key, store.ec_public(key), owner)
    store.destroy_group(function=3)


def test_cycles_do_not_grow(store: KeyStore) -> None:
    der = rsa_der()
    for _ in range(20):
        cycle(store)
    before = store.statistics()
    for number in range(1000):
        cycle(store)
        if number % 50 == 0:
            store.rsa_private(store.rsa_import_der(store.import_secret(der, OWNER), True, OWNER), (5).to_bytes(256))
            store.destroy_group()
    after = store.statistics()
    assert after.keys == after.keys_dying == 0
    assert after.bytes_in_use == before.bytes_in_use
    assert after.bytes_reserved <= before.bytes_reserved + 2**20  # what an RSA import needs on top


def rsa_der() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_full_then_empty(store: KeyStore) -> None:
    before = store.statistics().bytes_in_use
    keys = [store.generate_secret(32, OWNER) for _ in range(20_000)]
    assert store.statistics().keys == 20_000
    assert store.destroy_group() == len(keys)
    assert store.statistics().bytes_in_use == before


def test_threads_on_different_keys(store: KeyStore) -> None:
    def work(number: int) -> bool:
        owner = Owner(number, Scope.PARTITION)
        key = store.ec_generate(Curve(number % 3 + 1), owner)
        point, secret = store.ec_public(key), store.generate_secret(32, owner)
        tag = store.hmac(secret, Hash.SHA384, b"data")
        for index in range(40):
            digest = bytes([index]) * 32
            if not store.ec_verify(store.ec_curve(key), point, digest, store.ec_sign(key, digest)):
                return False
            if store.hmac(secret, Hash.SHA384, b"data") != tag:
                return False
            store.destroy(store.hkdf(secret, Hash.SHA256, None, bytes([index]), 32, owner))
        return store.destroy_group(function=number) == 2

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(12)))
    assert store.statistics().keys == 0


def test_destruction_while_in_use(store: KeyStore) -> None:
    """Every operation either works on the whole key or finds it gone; nothing stays behind."""
    outcomes = {True: 0, False: 0}
    lock = threading.Lock()
    current: list[Handle] = [store.ec_generate(Curve.P384, OWNER)]
    stop = threading.Event()

    def sign() -> None:
        while not stop.is_set():
            try:
                point = store.ec_public(current[0])
                handle = current[0]
                valid = store.ec_verify(
                    Curve.P384, store.ec_public(handle), bytes(32), store.ec_sign(handle, bytes(32))
                )
                assert valid
                assert len(point) == 97
                result = True
            except StaleHandleError:
                result = False
            with lock:
                outcomes[result] += 1

    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    exchanges = itertools.count()

    def exchange() -> bool:
        old, current[0] = current[0], store.ec_generate(Curve.P384, OWNER)
        store.destroy(old)
        return next(exchanges) >= 300 and outcomes[True] > 0

    until(exchange, "a signature between two exchanges", every_s=0)
    stop.set()
    ended(*threads)
    store.destroy_group()
    statistics = store.statistics()
    assert (statistics.keys, statistics.keys_dying) == (0, 0)


def test_kinds_and_sizes(store: KeyStore) -> None:
    assert store.kind(store.generate_secret(80, OWNER)) == Kind.SECRET
    assert store.size(store.generate_secret(80, OWNER)) == 80
    for curve in Curve:
        key = store.ec_generate(curve, OWNER)
        assert (store.kind(key), store.size(key), store.ec_curve(key)) == (Kind.EC, curve.size_bytes, curve)


def test_memory_is_locked_and_counted(store: KeyStore) -> None:
    statistics = store.statistics()
    assert 0 < statistics.bytes_in_use <= statistics.bytes_peak <= statistics.bytes_reserved
    assert statistics.bytes_locked == statistics.bytes_reserved
