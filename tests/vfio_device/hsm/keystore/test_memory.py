# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing of a destroyed key is left in the memory of the process; what is there is found."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from support import key_life
from support.commanded import Commander, both_orders, pieces


@pytest.fixture
def life() -> Iterator[Commander]:
    life = Commander("support.key_life")
    yield life
    life.end()


def opened(blob_hex: str) -> bytes:
    """The plaintext of a masked blob, fill included."""
    key = key_life.MASKING_KEY[:32]
    decryptor = Cipher(algorithms.AES(key), modes.CBC(key_life.IV)).decryptor()
    return decryptor.update(bytes.fromhex(blob_hex)[:-48])


def test_planted_bytes_are_found(life: Commander) -> None:
    needle = key_life.PLANT
    known = life.found(needle)  # the constant itself
    assert known > 0
    life("plant")
    assert life.found(needle) == known + 1
    assert life.found(os.urandom(32)) == 0


def test_keys_are_found_alive_and_gone_after_destruction(life: Commander) -> None:
    assert life("self_test")["passed"]
    masked = life("in_thread", "make")
    needles = {name: pieces(name, opened(blob)) for name, blob in masked.items()}
    assert life.missing(needles) == []
    answer = life("destroy")
    assert answer["destroyed"] >= 2 * len(masked)
    assert answer["left"] == 1
    assert life.present(needles) == []


def test_imports_and_credentials_leave_nothing(life: Commander) -> None:
    n = int(life("wrap_target")["n"], 16)
    public = rsa.RSAPublicNumbers(65537, n).public_key()
    kek = os.urandom(32)
    scheme = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    wrapped_kek = public.encrypt(kek, scheme)
    aes_key = os.urandom(32)
    ec_key = ec.generate_private_key(ec.SECP384R1())
    rsa_key = rsa.generate_private_key(65537, 3072)
    encoding = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    payloads = {"aes": aes_key, "ec": ec_key.private_bytes(*encoding), "rsa": rsa_key.private_bytes(*encoding)}
    for kind, payload in payloads.items():
        blob = wrapped_kek + keywrap.aes_key_wrap_with_padding(kek, payload)
        life("in_thread", "unwrap", blob.hex(), kind)
    device = ec.derive_private_key(int.from_bytes(key_life.KNOWN_SCALAR), ec.SECP384R1())
    client = ec.generate_private_key(ec.SECP384R1())
    nonce, iv, user, pin = os.urandom(32), os.urandom(16), os.urandom(16), os.urandom(16)
    shared = client.exchange(ec.ECDH(), device.public_key())
    okm = HKDF(hashes.SHA384(), 80, None, nonce).derive(shared)
    cipher = Cipher(algorithms.AES(okm[:32]), modes.CBC(iv)).encryptor().update(user + pin)
    point = client.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    answer = life("in_thread", "login", point.hex(), nonce.hex(), iv.hex(), cipher.hex())
    assert answer["verdict"] == "MATCH"
    numbers = rsa_key.private_numbers()
    alive = {
        "aes": [aes_key],
        "ec": both_orders(ec_key.private_numbers().private_value.to_bytes(48, "big")),
        "p": both_orders(numbers.p.to_bytes(192, "big")),
        "q": both_orders(numbers.q.to_bytes(192, "big")),
        "d": both_orders(numbers.d.to_bytes(384, "big")),
        "pin": [pin],
    }
    passing = {"kek": [kek], "shared": [shared[:24], shared[24:]], "okm": [okm[:32], okm[32:]]}
    assert life.missing(alive) == []
    assert life.present(passing) == [], "needed for a moment only"
    life("destroy")
    assert life.present(alive | passing) == []


def test_closing_wipes_what_nobody_destroyed(life: Commander) -> None:
    masked = life("make")
    needles = {name: pieces(name, opened(blob)) for name, blob in masked.items()}
    assert life.missing(needles) == []
    assert life("close")["left"] == 0
    assert life.present(needles) == []


def test_key_memory_is_out_of_reach(life: Commander) -> None:
    life("make")
    answer = life("protection")
    assert answer["dumpable"] == 0
    assert answer["protected_kib"] >= answer["reserved_kib"] > 0
