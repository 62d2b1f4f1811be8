# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Symmetric operations and derivations against published vectors and pyca/cryptography."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_device.hsm.keystore import (
    ArgumentError,
    AuthenticationError,
    Curve,
    Handle,
    Hash,
    KeySizeError,
    KeyStore,
    KeyUnwrapError,
    Owner,
    StaleHandleError,
    Withheld,
    WrongKindError,
)
from support import cavp
from support.digests import PYCA

OWNER = Owner()
HASH_NAMES = {"SHA-1": Hash.SHA1, "SHA-256": Hash.SHA256, "SHA-384": Hash.SHA384, "SHA-512": Hash.SHA512}


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("family", ["CBCMMT", "CBCKeySbox", "CBCVarKey"])
def test_cbc_cavp(store: KeyStore, family: str, bits: int) -> None:
    ran = 0
    for section, case in cavp.cases(f"ciphers/AES/CBC/{family}{bits}.rsp"):
        key = store.import_secret(bytes.fromhex(case["KEY"]), OWNER)
        iv, plain, cipher = (bytes.fromhex(case[name]) for name in ("IV", "PLAINTEXT", "CIPHERTEXT"))
        encrypt = section == "ENCRYPT"
        out = store.aes_cbc(key, encrypt=encrypt, iv=iv, data=plain if encrypt else cipher)
        assert out == (cipher if encrypt else plain)
        store.destroy(key)
        ran += 1
    assert ran >= 16


def test_cbc_refuses_other_lengths(store: KeyStore) -> None:
    key = store.generate_secret(32, OWNER)
    for length in (0, 15, 17, 510):
        with pytest.raises(ArgumentError):
            store.aes_cbc(key, encrypt=True, iv=bytes(16), data=bytes(length))
    for length in (0, 15, 17):
        with pytest.raises(ArgumentError):
            store.aes_cbc(key, encrypt=True, iv=bytes(length), data=bytes(16))
    for length in (15, 17, 33, 80):
        with pytest.raises(KeySizeError):
            store.aes_cbc(store.generate_secret(length, OWNER), encrypt=True, iv=bytes(16), data=bytes(16))
    with pytest.raises(WrongKindError):
        store.aes_cbc(store.ec_generate(Curve.P256, OWNER), encrypt=True, iv=bytes(16), data=bytes(16))


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_key_unwrap_cavp(store: KeyStore, bits: int) -> None:
    verdicts = {True: 0, False: 0}
    for _, case in cavp.cases(f"keywrap/kwtestvectors/KWP_AD_{bits}.txt"):
        if "K" not in case or len(case["C"]) > 2 * 512:
            continue
        kek = store.import_secret(bytes.fromhex(case["K"]), OWNER)
        wrapped = bytes.fromhex(case["C"])
        if "P" in case:
            assert store.hook_reveal(store.aes_kwp_unwrap(kek, wrapped, OWNER)) == bytes.fromhex(case["P"])
        else:
            with pytest.raises(KeyUnwrapError):
                store.aes_kwp_unwrap(kek, wrapped, OWNER)
        verdicts["P" in case] += 1
    assert verdicts[True] > 100
    assert verdicts[False] > 20


@given(payload=st.binary(min_size=1, max_size=100), flip=st.integers(0, 63))
@settings(max_examples=60)
def test_key_unwrap_accepts_any_length_and_no_change(payload: bytes, flip: int) -> None:
    store = KeyStore(validation_hooks=True)
    try:
        kek = bytes(range(32))
        handle = store.import_secret(kek, OWNER)
        wrapped = keywrap.aes_key_wrap_with_padding(kek, payload)
        assert store.hook_reveal(store.aes_kwp_unwrap(handle, wrapped, OWNER)) == payload
        changed = bytearray(wrapped)
        changed[flip % len(wrapped)] ^= 1
        for damaged in (bytes(changed), wrapped[:-1], wrapped + bytes(8), wrapped[:8], b""):
            with pytest.raises(KeyUnwrapError):
                store.aes_kwp_unwrap(handle, damaged, OWNER)
    finally:
        store.close()


def test_key_unwrap_refuses_plain_wrapping_and_other_keks(store: KeyStore) -> None:
    kek = bytes(range(32))
    with pytest.raises(KeyUnwrapError):
        store.aes_kwp_unwrap(store.import_secret(kek, OWNER), keywrap.aes_key_wrap(kek, bytes(32)), OWNER)
    for length in (1, 15, 20, 33, 48):
        with pytest.raises(KeySizeError):
            store.aes_kwp_unwrap(store.generate_secret(length, OWNER), bytes(24), OWNER)


@pytest.mark.parametrize(("name", "digest"), [("2202-sha1", Hash.SHA1), ("4231-sha256", Hash.SHA256),
                                              ("4231-sha384", Hash.SHA384), ("4231-sha512", Hash.SHA512)])  # fmt: skip
def test_hmac_rfc(store: KeyStore, name: str, digest: Hash) -> None:
    ran = 0
    for _, case in cavp.cases(f"HMAC/rfc-{name}.txt"):
        if "Key" not in case:
            continue
        key = store.import_secret(bytes.fromhex(case["Key"]), OWNER)
        tag = store.hmac(key, digest, bytes.fromhex(case["Msg"]))
        assert tag.hex() == case["MD"]
        ran += 1
    assert ran >= 5


@pytest.mark.parametrize("digest", Hash)
@pytest.mark.parametrize("length", [0, 1, 63, 64, 127, 128, 1023, 1024])
def test_hmac_and_digest_of_every_length(store: KeyStore, digest: Hash, length: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(length))
    name = PYCA[digest].name
    for key_length in (1, 32, 64, 128, 129):
        value = bytes(range(1, key_length + 1))
        tag = store.hmac(store.import_secret(value, OWNER), digest, data)
        assert tag == hmac.digest(value, data, name)
    assert store.digest(digest, data) == hashlib.new(name, data).digest()


def test_hkdf_rfc_5869(store: KeyStore) -> None:
    ran = 0
    for path in ("KDF/rfc-5869-HKDF-SHA1.txt", "KDF/rfc-5869-HKDF-SHA256.txt"):
        merged: dict[str, str] = {}
        for _, case in cavp.cases(path):
            merged |= case
            if "OKM" not in case:
                continue
            secret = store.import_secret(bytes.fromhex(merged["IKM"]), OWNER)
            salt, info = bytes.fromhex(merged.get("salt", "")), bytes.fromhex(merged.get("info", ""))
            out = store.hkdf(secret, HASH_NAMES[merged["Hash"]], salt or None, info, int(merged["L"]), OWNER)
            assert store.hook_reveal(out).hex() == merged["OKM"]
            merged = {}
            ran += 1
    assert ran >= 6


@pytest.mark.parametrize(
    ("digest", "salt", "info", "length", "expected"),
    [
        (Hash.SHA256, b"salt-01", b"info-01", 32, "329b2a70c16633535b52d6c3e93a0ff03190cbdb38b20a679092ce19815394ac"),
        (Hash.SHA384, None, b"", 16, "b99d268d378ee1d239e9abb2ad84714b"),
        (Hash.SHA512, b"salt-01", b"info-01", 64, "dd1dd96246f27815942152b6f3105f19e81bbe06644342a8db2ee0edb50b9f15"
                                                  "7aee5a2d361315582e8d07ab7cd3fad9cb06f90c688df369faccbdcace1c1c84"),
        (Hash.SHA256, None, b"info-01", 32, "f907287c1a9326ec0973fdba87ff0cd5c1afb6ac6408ea5258188a9fc4656418"),
        (Hash.SHA256, bytes(256), b"info-01", 32, "1d27235a7201e47e801678ec356b47601aab8acaf2e52231869ab38f046fcbfb"),
        (Hash.SHA384, bytes(256), b"info-01", 32, "5191ac5bc568616744e30ed13fbbda8d610d8173e22073815c82d8f5a1a14550"),
    ],
)  # fmt: skip
def test_hkdf_of_the_interface(
    store: KeyStore, digest: Hash, salt: bytes | None, info: bytes, length: int, expected: str
) -> None:
    out = store.hkdf(store.import_secret(bytes(range(32)), OWNER), digest, salt, info, length, OWNER)
    assert store.hook_reveal(out).hex() == expected


@pytest.mark.parametrize(
    ("digest", "label", "context", "length", "expected"),
    [
        (Hash.SHA256, b"label-01", b"context-01", 32,
         "813cd97070ac1465f02227e295a3f3b517db7984a4b5d860964c538010d2e8d2"),
        (Hash.SHA256, b"label-01", b"context-01", 16, "21cb3f191254215eb5020bfc62570f90"),
        (Hash.SHA384, b"label-01", b"context-01", 64,
         "5a1644e5aa20852d8cae87920f1958bf04acd0f1bc365a7abf3185aae37f714927b645f35baaaf7485dc01f30d0fa501"
         "f6c479e9ed5f22de7b3d759a1bdd78d2"),
        (Hash.SHA256, b"", b"", 32, "be27b734b68c7782d866819ae95ae24560bbd593476e9f8c0bf87db0b30a0316"),
    ],
)  # fmt: skip
def test_kbkdf_of_the_interface(
    store: KeyStore, digest: Hash, label: bytes, context: bytes, length: int, expected: str
) -> None:
    out = store.kbkdf(store.import_secret(bytes(range(32)), OWNER), digest, label, [context], length, OWNER)
    assert store.hook_reveal(out).hex() == expected


@given(
    digest=st.sampled_from(list(Hash)),
    secret=st.binary(min_size=1, max_size=66),
    salt=st.none() | st.binary(max_size=256),
    info=st.binary(max_size=256),
    length=st.integers(1, 128),
    offset=st.integers(0, 65),
)
@settings(max_examples=80)
def test_derivations_agree_with_another_implementation(
    digest: Hash, secret: bytes, salt: bytes | None, info: bytes, length: int, offset: int
) -> None:
    store = KeyStore(validation_hooks=True)
    try:
        handle = store.import_secret(secret, OWNER)
        out = store.hkdf(handle, digest, salt, info, length, OWNER)
        assert store.hook_reveal(out) == HKDF(PYCA[digest], length, salt, info).derive(secret)
        label = salt or b""
        offset %= len(secret)
        pieces: list[bytes | Handle] = [info[:5], store.import_secret(info[5:], OWNER) if info[5:] else b""]
        out = store.kbkdf(handle, digest, label, pieces, length, OWNER, key_offset=offset)
        expected = KBKDFHMAC(
            PYCA[digest], Mode.CounterMode, length, 4, 4, CounterLocation.BeforeFixed, label, info, None
        )
        assert store.hook_reveal(out) == expected.derive(secret[offset:])
    finally:
        store.close()


def test_derivation_limits(store: KeyStore) -> None:
    key = store.generate_secret(32, OWNER)
    for length in (0, 255 * 20 + 1, 5000):
        with pytest.raises(ArgumentError):
            store.hkdf(key, Hash.SHA1, None, b"", length, OWNER)
    for offset in (32, 1000):
        with pytest.raises(ArgumentError):
            store.kbkdf(key, Hash.SHA256, b"", [], 16, OWNER, key_offset=offset)
    gone = store.generate_secret(16, OWNER)
    store.destroy(gone)
    with pytest.raises(StaleHandleError):
        store.kbkdf(key, Hash.SHA256, b"", [gone], 16, OWNER)
    with pytest.raises(WrongKindError):
        store.hkdf(store.ec_generate(Curve.P256, OWNER), Hash.SHA256, None, b"", 32, OWNER)


def test_ecb_hook(store: KeyStore) -> None:
    key = bytes(range(32))
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    cipher = encryptor.update(bytes(range(64)))
    assert store.hook_aes_ecb_decrypt(store.import_secret(key, OWNER), cipher) == bytes(range(64))


@given(
    digest=st.sampled_from(list(Hash)),
    salt=st.binary(max_size=70),
    material=st.binary(min_size=1, max_size=70),
    info=st.binary(max_size=100),
)
@settings(max_examples=60)
def test_hkdf_in_two_steps(digest: Hash, salt: bytes, material: bytes, info: bytes) -> None:
    store = KeyStore(validation_hooks=True)
    try:
        extracted = store.hkdf_extract(digest, salt, store.import_secret(material, OWNER), OWNER)
        name, size = PYCA[digest].name, digest.size_bytes
        assert store.hook_reveal(extracted) == hmac.digest(salt or bytes(size), material, name)
        out = store.hkdf_expand(extracted, digest, info, size + 1, OWNER)
        whole = HKDF(PYCA[digest], size + 1, salt, info).derive(material)
        assert store.hook_reveal(out) == whole
    finally:
        store.close()


def test_a_salt_may_be_a_secret(store: KeyStore) -> None:
    salt = store.import_secret(b"s" * 48, OWNER)
    out = store.hkdf_extract(Hash.SHA384, salt, bytes(48), OWNER)
    assert store.hook_reveal(out) == hmac.digest(b"s" * 48, bytes(48), "sha384")
    store.destroy(salt)
    with pytest.raises(StaleHandleError):
        store.hkdf_extract(Hash.SHA384, salt, bytes(48), OWNER)
    with pytest.raises(StaleHandleError):
        store.hkdf_extract(Hash.SHA384, bytes(48), salt, OWNER)


def test_an_expansion_has_its_limits(store: KeyStore) -> None:
    key = store.generate_secret(48, OWNER)
    for length in (0, 255 * 20 + 1, 4097):
        with pytest.raises(ArgumentError):
            store.hkdf_expand(key, Hash.SHA1, b"", length, OWNER)
    with pytest.raises(WrongKindError):
        store.hkdf_expand(store.ec_generate(Curve.P256, OWNER), Hash.SHA256, b"", 32, OWNER)


@pytest.mark.parametrize("digest", Hash)
def test_hmac_is_verified(store: KeyStore, digest: Hash) -> None:
    key = store.import_secret(b"k" * 32, OWNER)
    tag = hmac.digest(b"k" * 32, b"data", PYCA[digest].name)
    assert store.hmac_verify(key, digest, b"data", tag)
    for wrong in (tag[:-1], tag + b"\0", b"", tag[:-1] + bytes([tag[-1] ^ 1]), bytes([tag[0] ^ 1]) + tag[1:]):
        assert not store.hmac_verify(key, digest, b"data", wrong)
    assert not store.hmac_verify(key, digest, b"dato", tag)


@given(
    sequence=st.integers(0, 2**64 - 1),
    header=st.binary(max_size=20),
    data=st.binary(max_size=300),
    flip=st.integers(0, 10_000),
)
@settings(max_examples=60)
def test_records(sequence: int, header: bytes, data: bytes, flip: int) -> None:
    store = KeyStore()
    try:
        secret, iv = bytes(range(32)), bytes(range(100, 112))
        key, base = store.import_secret(secret, OWNER), store.import_secret(iv, OWNER)
        sealed = store.record_seal(key, base, sequence, header, data)
        number = sequence.to_bytes(12, "little")
        nonce = bytes(a ^ b for a, b in zip(iv, number, strict=True))
        assert sealed == AESGCM(secret).encrypt(nonce, data, header)
        assert store.record_open(key, base, sequence, header, sealed) == data
        changed = bytearray(sealed)
        changed[flip % len(sealed)] ^= 1
        for record, place, front in (
            (bytes(changed), sequence, header),
            (sealed, sequence ^ 1, header),
            (sealed, sequence, header + b"\0"),
            (sealed[:-1], sequence, header),
            (sealed[:15], sequence, header),
            (b"", sequence, header),
        ):
            with pytest.raises(AuthenticationError):
                store.record_open(key, base, place, front, record)
    finally:
        store.close()


@pytest.mark.parametrize("changed", [None, 0, 1, 2])
@pytest.mark.parametrize("size", [0, 2, 3, 4, 6, 9])
def test_a_secret_in_a_record_is_withheld(store: KeyStore, size: int, changed: int | None) -> None:
    """Of texts that are like the pattern, as far as they reach; others are given whole."""
    key, iv = store.generate_secret(32, OWNER), store.generate_secret(12, OWNER)
    text = bytearray(bytes.fromhex("a1b2c3 04 05 06 07 08 09")[:size])
    if changed is not None and changed < size:
        text[changed] ^= 0xF0
    withheld = Withheld(bytes.fromhex("a002c3"), bytes.fromhex("f00fff"), 4, 7)
    sealed = store.record_seal(key, iv, 0, b"", bytes(text))
    like = size >= 3 and changed in (None, 1)
    expected = bytes(0 if like and place in (4, 5, 6) else value for place, value in enumerate(text))
    assert store.record_open(key, iv, 0, b"", sealed, withheld) == expected


def test_records_need_a_key_and_an_iv_of_their_lengths(store: KeyStore) -> None:
    key, iv = store.generate_secret(32, OWNER), store.generate_secret(12, OWNER)
    for other in (16, 33):
        with pytest.raises(KeySizeError):
            store.record_seal(store.generate_secret(other, OWNER), iv, 0, b"", b"")
        with pytest.raises(KeySizeError):
            store.record_seal(key, store.generate_secret(other, OWNER), 0, b"", b"")
    for gone in (key, iv):
        store.destroy(gone)
        with pytest.raises(StaleHandleError):
            store.record_seal(key, iv, 0, b"", b"")
