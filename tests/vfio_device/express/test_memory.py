# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the express lane leaves in memory: no key, nor what gives one away, outside the key store; nothing once deleted.

Stacks of its threads, messages, what is published and what waits for a slow thread are all searched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from ihsm.ddi.wrapping import wrap_key
from ihsm_abi.ddi import HashAlgorithm
from support.commanded import Commander, both_orders
from support.express_life import DIGEST, HMAC_TYPES, NUMBER, TEXT

CURVES: Final = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}
ORDERS: Final = {
    256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    384: int("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    521: (1 << 521) - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}
"""Of the groups (FIPS 186-4, D.1.2)."""
ROUNDS: Final = "4"


@dataclass
class Known:
    """A key of the device that this side knows: what a search for it looks for, and whether a result is right."""

    secret: list[bytes]

    def check(self, result: bytes) -> list[bytes]:
        """Fail unless the result is the key's; what its making had in its hands and must not leave behind."""
        raise NotImplementedError


@dataclass
class Ec(Known):
    key: ec.EllipticCurvePrivateKey

    def check(self, result: bytes) -> list[bytes]:
        size, half = self.key.curve.key_size, len(result) // 2
        r, s = int.from_bytes(result[:half]), int.from_bytes(result[half:])
        order, scalar = ORDERS[size], self.key.private_numbers().private_value
        nonce = pow(s, -1, order) * (int.from_bytes(DIGEST) + r * scalar) % order
        nonces = (nonce, order - nonce)
        points = [ec.derive_private_key(one, self.key.curve).public_key().public_numbers() for one in nonces]
        assert {point.x % order for point in points} == {r}
        # Who knows it, or its inverse, knows the key.
        return [
            piece
            for number in (*nonces, *(pow(one, -1, order) for one in nonces))
            for piece in both_orders(number.to_bytes(-(-size // 8)))[2:]
        ]


@dataclass
class Rsa(Known):
    key: rsa.RSAPrivateKey

    def check(self, result: bytes) -> list[bytes]:
        numbers, size = self.key.private_numbers(), self.key.key_size // 8
        n, x = numbers.public_numbers.n, int.from_bytes(result)
        assert pow(x, numbers.public_numbers.e, n) == int.from_bytes(NUMBER.ljust(size, b"\x07"))
        # A result modulo one prime gives the prime away.
        return [piece for prime in (numbers.p, numbers.q) for piece in both_orders((x % prime).to_bytes(size // 2))]


@dataclass
class Aes(Known):
    key: bytes

    def check(self, result: bytes) -> list[bytes]:
        encryptor = Cipher(algorithms.AES(self.key), modes.CBC(bytes(16))).encryptor()
        assert encryptor.update(TEXT) == result
        return []


@dataclass
class Hmac(Known):
    key: bytes
    hash: hashes.HashAlgorithm

    def check(self, result: bytes) -> list[bytes]:
        tag = HMAC(self.key, self.hash)
        tag.update(TEXT)
        assert tag.finalize() == result
        padded = self.key[:24]
        return [bytes(byte ^ pad for byte in padded) for pad in (0x36, 0x5C)]


@pytest.fixture
def life() -> Iterator[Commander]:
    life = Commander("support.express_life")
    yield life
    life.end()


def made_keys(life: Commander) -> dict[str, Known]:
    """Bring keys of every kind and size into the device."""
    public = life("start")
    unwrapping = load_der_public_key(bytes.fromhex(public["unwrapping"]))
    assert isinstance(unwrapping, rsa.RSAPublicKey)
    known: dict[str, Known] = {}

    def give(name: str, key_class: str, usage: str, payload: bytes) -> None:
        life("take", name, key_class, usage, wrap_key(payload, unwrapping, HashAlgorithm.Sha256).hex())

    pkcs8 = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for size, curve in CURVES.items():
        key = ec.generate_private_key(curve)
        known[f"ec-{size}"] = Ec(both_orders(key.private_numbers().private_value.to_bytes(-(-size // 8))), key)
        give(f"ec-{size}", "Ecc", "SignVerify", key.private_bytes(*pkcs8))
    for size in (2048, 3072, 4096):
        pair = rsa.generate_private_key(65537, size)
        for form in ("Rsa", "RsaCrt"):
            known[f"rsa-{form}-{size}"] = Rsa(rsa_needles(pair), pair)
            give(f"rsa-{form}-{size}", form, "SignVerify", pair.private_bytes(*pkcs8))
    for size in (128, 192, 256):
        bits = os.urandom(size // 8)
        known[f"aes-{size}"] = Aes([bits[:16], bits[-16:]], bits)
        give(f"aes-{size}", "Aes", "EncryptDecrypt", bits)
    peer = ec.generate_private_key(CURVES[256])
    point = load_der_public_key(bytes.fromhex(public["point"]))
    assert isinstance(point, ec.EllipticCurvePublicKey)
    shared = peer.exchange(ec.ECDH(), point)
    life("agree", peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex())
    for name, algorithm in zip(HMAC_TYPES, (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()), strict=True):
        bits = HKDF(hashes.SHA256(), algorithm.digest_size, None, name.encode()).derive(shared)
        known[name] = Hmac([bits[:24], bits[-24:]], bits, algorithm)
    return known


def rsa_needles(key: rsa.RSAPrivateKey) -> list[bytes]:
    """Pieces of all numbers of a key that are secret."""
    numbers = key.private_numbers()
    secret = (numbers.p, numbers.q, numbers.d, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return [piece for number in secret for piece in both_orders(number.to_bytes(-(-number.bit_length() // 8)))[2:]]


def test_the_lane_leaves_no_secret_outside_the_key_store(life: Commander) -> None:
    known = made_keys(life)
    done: Any = life("work", ROUNDS)
    assert done["taken"] == done["commands"] == len(known) * int(ROUNDS)
    passing = {name: key.check(bytes.fromhex(done["results"][name])) for name, key in known.items()}
    secrets = {name: key.secret for name, key in known.items()}
    hits = life.search(secrets)
    assert all(any(hit.found for hit in found) for found in hits.values()), f"a living key must be found: {hits}"
    assert not any(hit.outside for found in hits.values() for hit in found), hits
    assert life.present(passing) == []
    tag = {"tag": [bytes.fromhex(done["results"]["sha256"])]}
    assert life.search(tag)["tag"][0].outside, "what is kept outside is seen there"
    life("delete")
    assert life.present(secrets) == []
