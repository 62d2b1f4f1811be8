# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Masked keys: the interface's worked blobs, the vault forms, forgeries."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_device.hsm.keystore import (
    ArgumentError,
    AuthenticationError,
    Curve,
    DecodeError,
    Handle,
    KeySizeError,
    KeyStore,
    Kind,
    Owner,
)

OWNER = Owner()
MASKING_KEY = bytes(range(0x40, 0x90))
IV = bytes(range(0xA0, 0xB0))
TAG_BYTES = 48


def prefix_of(header_hex: str, metadata_hex: str) -> bytes:
    """Header, reserved bytes, IV, metadata and its pad, as in the worked examples."""
    metadata = bytes.fromhex(metadata_hex)
    return bytes.fromhex(header_hex) + bytes(34) + IV + metadata + bytes(-len(metadata) % 4)


def mask(store: KeyStore, key: Handle, prefix: bytes, fill: int | None = None) -> bytes:
    """Masked as the firmware does: 1 to 16 zero bytes after the plaintext."""
    size = store.masked_plaintext_size(key)
    encrypted = size // 16 * 16 + 16 if fill is None else size + fill
    return store.mask(key, store.import_secret(MASKING_KEY, OWNER), prefix, IV, encrypted)


def opened(blob: bytes, offset: int) -> bytes:
    """Plaintext with its fill, by another implementation."""
    assert hmac.digest(MASKING_KEY[32:], blob[:-TAG_BYTES], "sha384") == blob[-TAG_BYTES:]
    decryptor = Cipher(algorithms.AES(MASKING_KEY[:32]), modes.CBC(IV)).decryptor()
    return decryptor.update(blob[offset:-TAG_BYTES])


def sealed(plain: bytes, prefix: bytes = bytes(68)) -> bytes:
    """A blob with a good tag around any plaintext."""
    encryptor = Cipher(algorithms.AES(MASKING_KEY[:32]), modes.CBC(IV)).encryptor()
    body = prefix + encryptor.update(plain)
    return body + hmac.digest(MASKING_KEY[32:], body, "sha384")


def test_worked_ec_key(store: KeyStore) -> None:
    scalar = store.import_secret((0x1122334455667788).to_bytes(32, "big"), OWNER)
    key = store.ec_import_scalar(Curve.P256, scalar, OWNER)
    prefix = prefix_of(
        "01000100100000004f000100700000003000",
        "a618011b000000000000000118021a000000071803a11801800020"
        "2030000000000000" + 24 * "00" + "1804190000" + "1806830002000000" + "6b31" + "1807190020",
    )
    blob = mask(store, key, prefix)
    assert len(blob) == 308
    assert hashlib.sha256(blob).hexdigest() == "24e3c8e652afe26cde256d5bbec72967bce10eb2bee748fe1e45d48dded07859"
    back = store.unmask_ec(store.import_secret(MASKING_KEY, OWNER), blob, IV, 148, 112, Curve.P256, OWNER)
    assert store.ec_public(back) == store.ec_public(key)


def test_worked_aes_key(store: KeyStore) -> None:
    key = store.import_secret(bytes(range(32)), OWNER)
    prefix = prefix_of(
        "010001001000000053000100300000003000",
        "a718011b000000000000000118021a0000000c1803a11801800020"
        "200c000000000000" + 24 * "00" + "1804190000" + "1805190102" + "18068200020000" + "6b32" + "1807190020",
    )
    blob = mask(store, key, prefix)
    assert len(blob) == 248
    assert hashlib.sha256(blob).hexdigest() == "21f90ecb781535ef985e05c6e551f57cc6bee15e2a02f2776840753c3586783d"


def test_worked_aes_key_without_extra_block(store: KeyStore) -> None:
    key = store.import_secret(bytes(range(32)), OWNER)
    prefix = prefix_of(
        "01000100100000004d000300200000003000",
        "a618011b000000000000000118021a0000000c1803a11801800020"
        "200c000000000000" + "0201" + "101112131415161718191a1b1c1d1e1f" + "000000000000" + "1805190102"
        "1806830000000000" + "1807190020",
    )
    blob = mask(store, key, prefix, fill=0)
    assert len(blob) == 228
    assert hashlib.sha256(blob).hexdigest() == "a589402b879f56701f2e091efd14f93e53d70aa13b11a90c6fa3ba0900f0562b"
    back = store.unmask_secret(store.import_secret(MASKING_KEY, OWNER), blob, IV, 148, 32, 32, OWNER)
    assert store.hook_reveal(back) == bytes(range(32))


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


@pytest.mark.parametrize(("curve", "name", "step"), [(Curve.P256, ec.SECP256R1(), 32), (Curve.P384, ec.SECP384R1(), 48),
                                                     (Curve.P521, ec.SECP521R1(), 68)])  # fmt: skip
def test_ec_form(store: KeyStore, curve: Curve, name: ec.EllipticCurve, step: int) -> None:
    d = 2 ** (8 * curve.size_bytes - 9) + 12345
    numbers = ec.derive_private_key(d, name).public_key().public_numbers()
    key = store.ec_import_scalar(curve, store.import_secret(d.to_bytes(curve.size_bytes, "big"), OWNER), OWNER)
    expected = little(d, step) + little(numbers.x, step) + little(numbers.y, step)
    assert store.masked_plaintext_size(key) == len(expected)
    assert store.hook_reveal(key) == expected
    assert opened(mask(store, key, bytes(68)), 68)[: len(expected)] == expected


@pytest.mark.parametrize("crt", [False, True])
@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_rsa_form_and_back(store: KeyStore, bits: int, crt: bool) -> None:
    key = rsa.generate_private_key(65537, bits)
    k, n = key.private_numbers(), key.public_key().public_numbers().n
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    handle = store.rsa_import_der(store.import_secret(der, OWNER), crt, OWNER)
    full, half = bits // 8, bits // 16
    if crt:
        halves = b"".join(little(value, half) for value in (k.p, k.q, k.dmp1, k.dmq1))
        idempotents = little(k.q * pow(k.q, -1, k.p), full) + little(k.p * pow(k.p, -1, k.q), full)
        expected = halves + little(n, full) + idempotents + little(65537, 4)
        assert len(expected) in (1284, 1924, 2564)
    else:
        expected = little(k.d % ((k.p - 1) * (k.q - 1)), full) + little(n, full) + little(65537, 4)
        assert len(expected) in (516, 772, 1028)
    form = store.hook_reveal(handle)
    if crt:
        assert form == expected
    else:  # d may be reduced by either totient
        assert form[full:] == expected[full:]
        d = int.from_bytes(form[:full], "little")
        assert d * 65537 % (k.p - 1) == 1
        assert d * 65537 % (k.q - 1) == 1
    blob = mask(store, handle, bytes(68))
    encrypted = len(blob) - 68 - TAG_BYTES
    mk = store.import_secret(MASKING_KEY, OWNER)
    back = store.unmask_rsa(mk, blob, IV, 68, encrypted, bits, crt, OWNER)
    assert store.kind(back) == (Kind.RSA_CRT if crt else Kind.RSA)
    y = (7).to_bytes(full, "big")
    assert store.rsa_private(back, y) == store.rsa_private(handle, y)
    assert store.hook_reveal(back) == form


@pytest.mark.parametrize("length", [1, 16, 24, 32, 47, 48, 64, 66, 80, 128])
def test_secret_form_and_fill(store: KeyStore, length: int) -> None:
    value = bytes(range(1, length + 1))
    key = store.import_secret(value, OWNER)
    prefix = bytes(72)
    for encrypted in range(-(-length // 16) * 16, length + 32, 16):
        blob = store.mask(key, store.import_secret(MASKING_KEY, OWNER), prefix, IV, encrypted)
        assert len(blob) == 72 + encrypted + TAG_BYTES
        assert opened(blob, 72) == value + bytes(encrypted - length)
        back = store.unmask_secret(store.import_secret(MASKING_KEY, OWNER), blob, IV, 72, encrypted, length, OWNER)
        assert store.hook_reveal(back) == value


def test_sizes_that_do_not_fit(store: KeyStore) -> None:
    key, mk = store.generate_secret(32, OWNER), store.import_secret(MASKING_KEY, OWNER)
    for encrypted in (0, -16, 16, 31, 33, 47, 64, 5000):
        with pytest.raises(ArgumentError):
            store.mask(key, mk, bytes(68), IV, encrypted)
    for length in (32, 79, 81):
        with pytest.raises(KeySizeError):
            store.mask(key, store.generate_secret(length, OWNER), bytes(68), IV, 48)
    blob = sealed(bytes(48))
    for offset, encrypted, length in ((68, 32, 48), (68, 64, 48), (84, 48, 48), (2**40, 48, 48), (68, 40, 40),
                                      (0, 96, 48), (68, 48, 15), (68, 0, 1)):  # fmt: skip
        with pytest.raises(DecodeError):
            store.unmask_secret(mk, blob, IV, offset, encrypted, length, OWNER)
    for length in (0, -1, 5000):
        with pytest.raises(ArgumentError):
            store.unmask_secret(mk, blob, IV, 68, 48, length, OWNER)


def test_plaintexts_that_are_no_keys(store: KeyStore) -> None:
    mk = store.import_secret(MASKING_KEY, OWNER)
    good = store.hook_reveal(store.ec_generate(Curve.P256, OWNER))
    for plain in (bytes(96), b"\xff" * 96, good[:40] + bytes([good[40] ^ 1]) + good[41:], good[32:64] + good[32:]):
        with pytest.raises(DecodeError):
            store.unmask_ec(mk, sealed(plain + bytes(16)), IV, 68, 112, Curve.P256, OWNER)
    for crt, size in ((False, 516), (True, 1284)):
        for plain in (bytes(size), b"\xff" * size, bytes([1] * size)):
            filled = plain + bytes(-size % 16)
            with pytest.raises(DecodeError):
                store.unmask_rsa(mk, sealed(filled), IV, 68, len(filled), 2048, crt, OWNER)
    with pytest.raises(ArgumentError):
        store.unmask_rsa(mk, sealed(bytes(256)), IV, 68, 256, 1024, False, OWNER)


@pytest.mark.parametrize("crt", [False, True])
def test_a_key_in_the_form_of_a_longer_one(store: KeyStore, crt: bool) -> None:
    """All its numbers are good: its length is not that which the metadata name."""
    k = rsa.generate_private_key(65537, 2048).private_numbers()
    n, full, half = k.public_numbers.n, 384, 192
    if crt:
        plain = b"".join(little(value, half) for value in (k.p, k.q, k.dmp1, k.dmq1)) + little(n, full)
        plain += bytes(2 * full) + little(65537, 4)
    else:
        plain = little(k.d, full) + little(n, full) + little(65537, 4)
    filled = plain + bytes(-len(plain) % 16)
    mk = store.import_secret(MASKING_KEY, OWNER)
    before = store.statistics()
    with pytest.raises(DecodeError):
        store.unmask_rsa(mk, sealed(filled), IV, 68, len(filled), 3072, crt, OWNER)
    after = store.statistics()
    assert (after.keys, after.bytes_in_use) == (before.keys, before.bytes_in_use), "the key that was made is gone"


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=100)
def test_every_bit_is_authenticated(position: int, bit: int) -> None:
    store = KeyStore()
    try:
        mk = store.import_secret(MASKING_KEY, OWNER)
        blob = sealed(bytes(range(48)))
        assert store.verify_masked(mk, blob)
        forged = bytearray(blob)
        forged[position % len(blob)] ^= 1 << bit
        assert not store.verify_masked(mk, bytes(forged))
        with pytest.raises(AuthenticationError):
            store.unmask_secret(mk, bytes(forged), IV, 68, 48, 32, OWNER)
    finally:
        store.close()


def test_verification_of_other_keys_and_lengths(store: KeyStore) -> None:
    blob = sealed(bytes(48))
    mk = store.import_secret(MASKING_KEY, OWNER)
    assert store.verify_masked(mk, blob)
    assert not store.verify_masked(store.generate_secret(80, OWNER), blob)
    assert not store.verify_masked(store.generate_secret(48, OWNER), blob)
    for other in (b"", blob[:47], blob[:-1], blob + b"\0", blob[1:]):
        assert not store.verify_masked(mk, other)
