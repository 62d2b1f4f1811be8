# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Power-on self-tests, and the independent computation of those known answers that are not published ones."""

from __future__ import annotations

import hashlib
import logging
import re
from math import lcm
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ihsm_device.hsm.keystore import HooksDisabledError, KeyStore, run_self_tests

SOURCE = Path(__file__).parents[4] / "vfio_device/native/keystore/selftest.c"
CURVES = {"P256": (ec.SECP256R1(), 32, 0x1122334455667788), "P384": (ec.SECP384R1(), 48, 0x0BADC0DE),
          "P521": (ec.SECP521R1(), 66, 7)}  # fmt: skip
ORDERS = {
    "P256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "P384": 2**384 - 0x389CB27E0BC8D220A7E5F24DB74F58851313E695333AD68D,
    "P521": 2**521 - 0x5AE79787C40D069948033FEB708F65A2FC44A36477663B851449048E16EC79BF7,
}


@pytest.fixture(scope="module")
def answers() -> str:
    """The source with the pieces of its string literals joined."""
    return re.sub(r'"\s*"', "", SOURCE.read_text())


def test_all_pass_and_leave_nothing(store: KeyStore) -> None:
    before = store.statistics()
    report = run_self_tests(store)
    assert report.passed, report.failed
    assert [result.name for result in report.results] == list(store.self_test_names())
    assert len(set(store.self_test_names())) == len(report.results) >= 28
    after = store.statistics()
    assert (after.keys, after.keys_dying, after.published) == (0, 0, 0)
    assert run_self_tests(store).passed
    assert store.statistics().bytes_in_use <= max(before.bytes_in_use, after.bytes_in_use)


def test_each_can_be_made_to_fail(store: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    for name in store.self_test_names():
        store.set_fault(name, 1)
        with caplog.at_level(logging.ERROR):
            report = run_self_tests(store)
        assert report.failed == (name,)
        assert not report.passed
    assert [record.__dict__["self_test"] for record in caplog.records] == list(store.self_test_names())
    store.set_fault("hkdf", -1)
    assert [run_self_tests(store).failed for _ in range(3)] == [("hkdf",)] * 3
    store.set_fault("hkdf", 0)
    assert run_self_tests(store).passed


def test_faults_need_their_switch() -> None:
    store = KeyStore()
    try:
        with pytest.raises(HooksDisabledError):
            store.set_fault("hkdf", 1)
        assert run_self_tests(store).passed
    finally:
        store.close()


def test_unknown_name(store: KeyStore) -> None:
    with pytest.raises(ValueError, match="tuple"):
        store.self_test("md5")


def _multiply(curve: str, scalar: int) -> tuple[int, int]:
    numbers = ec.derive_private_key(scalar, CURVES[curve][0]).public_key().public_numbers()
    return numbers.x, numbers.y


@pytest.mark.parametrize("curve", CURVES)
def test_ecdsa_answer(answers: str, curve: str) -> None:
    _, size, d = CURVES[curve]
    order, nonce = ORDERS[curve], 0x0102030405060708
    found = re.search(rf'CURVE_{curve}, \w+,\s*"([0-9a-f]+)",\s*"([0-9a-f]+)"', answers)
    assert found
    digest = bytes.fromhex(found[1])
    r = _multiply(curve, nonce)[0] % order
    z = int.from_bytes(digest) >> max(0, 8 * len(digest) - order.bit_length())
    s = pow(nonce, -1, order) * (z + r * d) % order
    assert found[2] == (r.to_bytes(size, "big") + s.to_bytes(size, "big")).hex()


@pytest.mark.parametrize("curve", CURVES)
def test_ecdh_answer(answers: str, curve: str) -> None:
    name, size, _ = CURVES[curve]
    filled = 65 if curve == "P521" else size
    ours, theirs = (ec.derive_private_key(int.from_bytes(byte * filled), name) for byte in (b"\x11", b"\x22"))
    found = re.search(rf'ecdh\(CURVE_{curve},\s*"04([0-9a-f]+)",\s*"([0-9a-f]+)"', answers)
    assert found
    x, y = (value.to_bytes(size, "big").hex() for value in _multiply(curve, int.from_bytes(b"\x22" * filled)))
    assert found[1] == x + y
    assert found[2] == ours.exchange(ec.ECDH(), theirs.public_key()).hex()


def test_rsa_answers(answers: str) -> None:
    p, q, e = 7 * 2**1021 + 309, 3 * 2**1022 + 1037, 65537
    n, d = p * q, pow(e, -1, lcm(p - 1, q - 1))
    assert hashlib.sha256(pow(2, d, n).to_bytes(256, "big")).hexdigest() in answers
    found = re.search(r'hex\("([0-9a-f]{512})"\)', answers)
    assert found
    encoded = pow(int(found[1], 16), d, n).to_bytes(256, "big")

    def mgf1(seed: bytes, length: int) -> bytes:
        return b"".join(hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(-(-length // 32)))[:length]

    def xor(a: bytes, b: bytes) -> bytes:
        return bytes(x ^ y for x, y in zip(a, b, strict=True))

    seed = xor(encoded[1:33], mgf1(encoded[33:], 32))
    block = xor(encoded[33:], mgf1(seed, 223))
    assert seed == bytes(range(0x80, 0xA0))
    assert block == hashlib.sha256(b"").digest() + bytes(158) + b"\x01" + bytes(range(32))


def test_drbg_answer(answers: str) -> None:
    """CTR_DRBG with AES-256 and no derivation function (SP 800-90A 10.2.1), written from the standard."""
    key, counter = bytes(32), 0

    def block() -> bytes:
        nonlocal counter
        counter = (counter + 1) % 2**128
        return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(counter.to_bytes(16, "big"))

    def update(data: bytes) -> None:
        nonlocal key, counter
        mixed = bytes(a ^ b for a, b in zip(b"".join(block() for _ in range(3)), data, strict=True))
        key, counter = mixed[:32], int.from_bytes(mixed[32:])

    update(bytes(range(48)))
    for _ in range(2):
        out = b"".join(block() for _ in range(4))
        update(bytes(48))
    assert out.hex() in answers
