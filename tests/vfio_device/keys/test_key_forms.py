# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The forms of keys that memory is searched for are those of the standards; the search finds them, and nothing else."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from support import key_forms
from support.commanded import Commander
from support.memory_index import Index, Place, mappings, names, plain_forms, thin_forms


@pytest.mark.parametrize("size", [16, 24, 32])
def test_schedules(size: int) -> None:
    key, block = os.urandom(size), os.urandom(16)
    assert key_forms.encrypt_block(key, block) == Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)
    decryption = key_forms.decryption_keys(key)
    mixed = [b"".join(key_forms._mixed(keys[at : at + 4]) for at in range(0, 16, 4)) for keys in decryption]
    assert mixed == key_forms.round_keys(key)[1:-1]
    # FIPS 197, A.3
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    assert key_forms.round_keys(key)[-1] == bytes.fromhex("fe4890d1e6188d0b046df344706c631e")


def test_ghash_keys() -> None:
    key, iv, aad = os.urandom(32), os.urandom(12), os.urandom(16)
    gcm = Cipher(algorithms.AES(key), modes.GCM(iv)).encryptor()
    gcm.authenticate_additional_data(aad)
    gcm.finalize()
    h, h2 = (int.from_bytes(key_forms.ghash_keys(key)[at]) for at in (0, 2))
    lengths = struct.pack(">QQ", 8 * len(aad), 0)
    # GHASH of two blocks is a * H^2 + b * H.
    hashed = key_forms._ghash_times(int.from_bytes(aad), h2) ^ key_forms._ghash_times(int.from_bytes(lengths), h)
    mask = key_forms.encrypt_block(key, iv + bytes.fromhex("00000001"))
    assert gcm.tag == bytes(a ^ b for a, b in zip(hashed.to_bytes(16), mask, strict=True))


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_states_of_hash_functions(name: str) -> None:
    size = 64 if name == "sha256" else 128
    message = os.urandom(size // 2 - 1)
    block = (message + b"\x80").ljust(size - 8, b"\0") + struct.pack(">Q", 8 * len(message))
    state = b"".join(word.to_bytes(size // 16) for word in key_forms.state_after(name, block))
    assert state[: hashlib.new(name).digest_size] == hashlib.new(name, message).digest()
    longer = os.urandom(size + 1)
    assert hashlib.new(name, longer).digest()[:16] not in key_forms.hmac_states(b"key", name)


def test_numbers() -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    scalar = key.private_numbers().private_value
    plain, mont, inverse, _ = (int.from_bytes(form) for form in key_forms.scalar_forms(scalar, 521))
    order = key_forms.ORDERS[521]
    assert (plain, plain * inverse % order, mont * pow(1 << 576, -1, order) % order) == (scalar, 1, scalar)
    pair = rsa.generate_private_key(65537, 2048).private_numbers()
    assert int.from_bytes(key_forms.rsa_forms(pair)[0]) == pair.p
    assert int.from_bytes(key_forms.rsa_passing(pair, bytes([1]))[0]) == 1


def test_every_form_is_found_wherever_it_begins() -> None:
    secret = os.urandom(48)
    index = Index({"secret": [secret], "other": [os.urandom(48)]})
    for form in plain_forms(secret) + thin_forms(secret):
        for offset in range(8):
            piece = form[5:-5]
            assert index.in_bytes(bytes(offset) + piece + bytes(11)) == {"secret"}
            assert {name for name, _ in index.hits(bytes(8 + offset) + piece + bytes(11))} == {"secret"}
        between = next(byte for byte in range(256) if byte not in (form[7], form[-8]))  # goes on with neither part
        assert not index.in_bytes(form[:7] + bytes([between]) * 64 + form[-7:])
    assert not index.in_bytes(os.urandom(1 << 20))
    number = int.from_bytes(secret)
    limbs = (sys.getsizeof(number) - 24) // 4
    assert limbs == -(-number.bit_length() // 30), "Python keeps numbers in limbs of 30 bits"


def test_bytes_that_another_process_has_are_found_and_those_in_files(tmp_path: Path) -> None:
    secrets = {"planted": [os.urandom(32)], "nowhere": [os.urandom(32)]}
    index = Index(secrets)
    if os.geteuid() != 0:
        pytest.skip("only root reads the memory of a process that may not be dumped")
    life = Commander("support.client_life")
    try:
        assert not index.in_process(life.process.pid)
        life("keep", secrets["planted"][0].hex())
        assert names(index.in_process(life.process.pid), Place.OUTSIDE) == {"planted"}
        assert {mapping.place for mapping in mappings(life.process.pid)} >= {Place.OUTSIDE}
    finally:
        life.end()
    (tmp_path / "file").write_bytes(b"text" + secrets["planted"][0].hex().encode())
    assert index.in_files([tmp_path]) == {("planted", "file")}
