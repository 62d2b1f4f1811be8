# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA against pyca/cryptography, published vectors and plain integer arithmetic."""

from __future__ import annotations

import hashlib
from functools import cache
from math import lcm

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ihsm_device.hsm.keystore import (
    ArgumentError,
    CryptoFailureError,
    Curve,
    DecodeError,
    Handle,
    Hash,
    KeySizeError,
    KeyStore,
    KeyStructureError,
    Kind,
    LengthError,
    OaepError,
    Owner,
    PairwiseTest,
    PairwiseTestError,
    RangeError,
    WrongKindError,
)
from support import cavp
from support.digests import PYCA

OWNER = Owner()
P, Q, E = 7 * 2**1021 + 309, 3 * 2**1022 + 1037, 65537


@cache
def key_of(bits: int) -> rsa.RSAPrivateKey:
    if bits == 2048:
        d = pow(E, -1, lcm(P - 1, Q - 1))
        return rsa.RSAPrivateNumbers(
            P, Q, d, d % (P - 1), d % (Q - 1), pow(Q, -1, P), rsa.RSAPublicNumbers(E, P * Q)
        ).private_key()
    return rsa.generate_private_key(E, bits)


def pkcs8(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load(store: KeyStore, key: rsa.RSAPrivateKey, crt: bool) -> Handle:
    return store.rsa_import_der(store.import_secret(pkcs8(key), OWNER), crt, OWNER)


def integer(value: int) -> bytes:
    body = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + length(len(body)) + body


def length(n: int) -> bytes:
    digits = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([n]) if n < 128 else bytes([0x80 | len(digits)]) + digits


def sequence(body: bytes) -> bytes:
    return b"\x30" + length(len(body)) + body


def der(n: int, e: int, d: int, p: int, q: int, dp: int, dq: int, qinv: int) -> bytes:
    """PKCS#8 of any numbers at all."""
    return wrapped(b"".join(integer(value) for value in (0, n, e, d, p, q, dp, dq, qinv)))


def wrapped(fields: bytes) -> bytes:
    """PKCS#8 around the fields of an RSAPrivateKey (RFC 8017 A.1.2)."""
    inner = sequence(fields)
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    return sequence(b"\x02\x01\x00" + algorithm + b"\x04" + length(len(inner)) + inner)


@pytest.mark.parametrize("crt", [False, True])
@pytest.mark.parametrize("bits", [2048, 3072, 4096])
def test_private_operation(store: KeyStore, bits: int, crt: bool) -> None:
    key = key_of(bits)
    numbers = key.private_numbers()
    n = numbers.public_numbers.n
    handle = load(store, key, crt)
    assert store.kind(handle) == (Kind.RSA_CRT if crt else Kind.RSA)
    assert store.size(handle) == bits // 8
    public = store.rsa_public(handle)
    assert (int.from_bytes(public.n), int.from_bytes(public.e)) == (n, E)
    assert (len(public.n), public.e) == (bits // 8, b"\x01\x00\x01")
    for y in (2, 3, n // 2, n - 2):
        x = store.rsa_private(handle, y.to_bytes(bits // 8, "big"))
        assert int.from_bytes(x) == pow(y, numbers.d, n)
        assert len(x) == bits // 8
    for y in (0, 1, n - 1, n, 2**bits - 1):
        with pytest.raises(RangeError):
            store.rsa_private(handle, y.to_bytes(bits // 8, "big"))
    for size in (0, 1, bits // 8 - 1, bits // 8 + 1):
        with pytest.raises(LengthError):
            store.rsa_private(handle, b"\x02" * size)


def test_deterministic_key_of_the_interface(store: KeyStore) -> None:
    for crt in (False, True):
        x = store.rsa_private(load(store, key_of(2048), crt), (2).to_bytes(256, "big"))
        assert hashlib.sha256(x).hexdigest() == "1ddfcbdf7214ccc960a284da89bd27b4b7a001ac274f08a395eb98ad857034b8"


@pytest.mark.parametrize("crt", [False, True])
def test_padded_signatures_verify_elsewhere(store: KeyStore, crt: bool) -> None:
    key = key_of(3072)
    digest_info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(b"abc").digest()
    encoded = b"\x00\x01" + b"\xff" * (384 - 3 - len(digest_info)) + b"\x00" + digest_info
    signature = store.rsa_private(load(store, key, crt), encoded)
    key.public_key().verify(signature, b"abc", padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("digest", Hash)
@pytest.mark.parametrize("crt", [False, True])
def test_oaep(store: KeyStore, digest: Hash, crt: bool) -> None:
    key = key_of(2048)
    handle = load(store, key, crt)
    scheme = padding.OAEP(padding.MGF1(PYCA[digest]), PYCA[digest], None)
    for message in (b"\x00", bytes(range(32)), b"x" * (256 - 2 * digest.size_bytes - 2)):
        cipher = key.public_key().encrypt(message, scheme)
        assert store.hook_reveal(store.rsa_oaep_decrypt(handle, digest, cipher, OWNER)) == message
    wrong = next(other for other in Hash if other != digest)
    damaged = bytearray(cipher)
    damaged[128] ^= 1
    labelled = key.public_key().encrypt(b"m", padding.OAEP(padding.MGF1(PYCA[digest]), PYCA[digest], b"label"))
    empty = key.public_key().encrypt(b"", scheme)
    for other_digest, bad in ((wrong, cipher), (digest, bytes(damaged)), (digest, labelled), (digest, empty)):
        with pytest.raises(OaepError):
            store.rsa_oaep_decrypt(handle, other_digest, bad, OWNER)
    with pytest.raises(LengthError):
        store.rsa_oaep_decrypt(handle, digest, cipher[:-1], OWNER)
    with pytest.raises(RangeError):
        store.rsa_oaep_decrypt(handle, digest, b"\xff" * 256, OWNER)


@pytest.mark.parametrize("name", ["sha256", "sha384", "sha512"])
def test_oaep_published_vectors(store: KeyStore, name: str) -> None:
    """Vectors with one hash for both uses; of the moduli, those that the device has."""
    ran = 0
    fields: dict[str, list[str]] = {}
    heading = ""
    for line in (cavp.ROOT / f"asymmetric/RSA/oaep-custom/oaep-{name}-{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# :")
            if heading == "Example":
                fields = {}
            continue
        fields.setdefault(heading, []).append(line.strip())
        if heading == "Encryption":
            numbers = {key: int(value[-1], 16) for key, value in fields.items() if key not in ("Message", "Encryption")}
            if numbers["Modulus"].bit_length() not in (2048, 3072, 4096):
                continue
            private = int(fields["Exponent"][-1], 16)
            p, q = numbers["Prime 1"], numbers["Prime 2"]
            crt_values = private % (p - 1), private % (q - 1), numbers["Coefficient"]
            key = der(numbers["Modulus"], numbers["Public exponent"], private, p, q, *crt_values)
            handle = store.rsa_import_der(store.import_secret(key, OWNER), True, OWNER)
            cipher = bytes.fromhex(fields["Encryption"][-1])
            out = store.rsa_oaep_decrypt(handle, Hash[name.upper()], cipher, OWNER)
            assert store.hook_reveal(out) == bytes.fromhex(fields["Message"][-1])
            ran += 1
    assert ran >= 6


@pytest.mark.parametrize("crt", [False, True])
def test_import_forms(store: KeyStore, crt: bool) -> None:
    key = key_of(2048)
    pkcs1 = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    ec_key = ec.derive_private_key(3, ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    good = pkcs8(key)
    without_null = good.replace(bytes.fromhex("300d06092a864886f70d0101010500"), b"")
    for bad in (pkcs1, ec_key, good + b"\0", good[:-1], without_null, b"garbage", b"\x30\x00"):
        with pytest.raises(DecodeError):
            store.rsa_import_der(store.import_secret(bad, OWNER), crt, OWNER)
    for bits in (1024, 2056):
        with pytest.raises(KeySizeError):
            load(store, rsa.generate_private_key(E, bits), crt)


@pytest.mark.parametrize("crt", [False, True])
def test_import_wants_all_numbers_and_nothing_else(store: KeyStore, crt: bool) -> None:
    k = key_of(2048).private_numbers()
    values = (0, k.public_numbers.n, E, k.d, P, Q, k.dmp1, k.dmq1, k.iqmp)
    fields = [integer(value) for value in values]
    octets = b"\x04\x01\x01"
    negative = b"\x02\x01\xff"
    bad = [fields[:count] for count in range(len(fields))] + [[*fields, integer(1)]]
    bad += [[*fields[:at], octets, *fields[at + 1 :]] for at in range(len(fields))]
    bad += [[*fields[:at], negative, *fields[at + 1 :]] for at in range(6)]
    before = store.statistics().keys
    for parts in bad:
        with pytest.raises(DecodeError):
            store.rsa_import_der(secret := store.import_secret(wrapped(b"".join(parts)), OWNER), crt, OWNER)
        store.destroy(secret)
    assert store.statistics().keys == before
    load(store, key_of(2048), crt)


def test_import_tells_contradictions(store: KeyStore) -> None:
    k = key_of(2048).private_numbers()
    n, d = k.public_numbers.n, k.d
    usual = {"n": n, "e": E, "d": d, "p": P, "q": Q, "dp": k.dmp1, "dq": k.dmq1, "qinv": k.iqmp}

    def load_numbers(crt: bool, **changes: int) -> Handle:
        return store.rsa_import_der(store.import_secret(der(**{**usual, **changes}), OWNER), crt, OWNER)

    for changes in ({"d": d + 2}, {"e": 65539}, {"p": P + 2}, {"n": n + 2}, {"d": n + 1},
                    {"e": 2**32 + 1}, {"e": 1}):  # fmt: skip
        with pytest.raises(KeyStructureError) as error:
            load_numbers(True, **changes)
        assert error.value.size_bytes == 256
    for changes in ({"p": 0}, {"p": 1}, {"q": 1}, {"p": Q}, {"q": P}):
        with pytest.raises(CryptoFailureError):
            load_numbers(True, **changes)
    for changes in ({"d": d + 2}, {"e": 65539}, {"n": n + 2}):
        with pytest.raises(PairwiseTestError):
            store.rsa_pairwise_test(load_numbers(False, **changes), PairwiseTest.SIGN)
    # The store's own CRT values are used, not those of the import.
    handle = load_numbers(True, dp=5, dq=7, qinv=9)
    store.rsa_pairwise_test(handle, PairwiseTest.ENCRYPT)
    swapped = load_numbers(True, p=Q, q=P)
    assert int.from_bytes(store.rsa_private(swapped, (5).to_bytes(256, "big"))) == pow(5, d, n)


@pytest.mark.parametrize("crt", [False, True])
def test_generation(store: KeyStore, crt: bool) -> None:
    handle = store.rsa_generate(2048, OWNER, crt=crt)
    assert store.kind(handle) == (Kind.RSA_CRT if crt else Kind.RSA)
    public = store.rsa_public(handle)
    n = int.from_bytes(public.n)
    assert (n.bit_length(), public.e) == (2048, b"\x01\x00\x01")
    for test in (PairwiseTest.SIGN, PairwiseTest.ENCRYPT):
        store.rsa_pairwise_test(handle, test)
    store.set_fault("pct-rsa", 1)
    with pytest.raises(PairwiseTestError):
        store.rsa_pairwise_test(handle, PairwiseTest.SIGN)
    y = 123456789
    assert pow(int.from_bytes(store.rsa_private(handle, y.to_bytes(256, "big"))), E, n) == y
    with pytest.raises(ArgumentError):
        store.rsa_pairwise_test(handle, PairwiseTest.AGREE)
    for bits in (0, 1024, 2047, 8192, -2048):
        with pytest.raises(ArgumentError):
            store.rsa_generate(bits, OWNER)


def test_kinds_are_checked(store: KeyStore) -> None:
    curve_key = store.ec_generate(Curve.P256, OWNER)
    secret = store.generate_secret(256, OWNER)
    for handle in (curve_key, secret):
        with pytest.raises(WrongKindError):
            store.rsa_private(handle, bytes(256))
        with pytest.raises(WrongKindError):
            store.rsa_public(handle)


@pytest.mark.parametrize(
    ("p", "q"),
    [(9 * 2**1024 + 2345, 15 * 2**1016 + 743), (15 * 2**1084 + 4601, 15 * 2**956 + 361)],
    ids=["1028-and-1020-bits", "1088-and-960-bits"],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_primes_of_unequal_length(store: KeyStore, p: int, q: int, swapped: bool) -> None:
    """Without CRT a key like any other; the form with CRT has half the modulus' length for a prime: refused."""
    if swapped:
        p, q = q, p
    n, d = p * q, pow(E, -1, lcm(p - 1, q - 1))
    secret = store.import_secret(der(n, E, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)), OWNER)
    with pytest.raises(CryptoFailureError):
        store.rsa_import_der(secret, True, OWNER)
    key = store.rsa_import_der(secret, False, OWNER)
    store.rsa_pairwise_test(key, PairwiseTest.ENCRYPT)
    assert int.from_bytes(store.rsa_private(key, (5).to_bytes(256, "big")), "big") == pow(5, d, n)
