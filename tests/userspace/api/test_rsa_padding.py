# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA encodings against published vectors, and against pyca as encoder and as judge.

No device: its part is y^d mod n, which `pow` does here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import example, given
from hypothesis import strategies as st

from ihsm.api import rsa_padding
from ihsm.api.digests import digest, digest_of
from ihsm.api.errors import UnsupportedByDeviceError
from ihsm.errors import ArgumentError, ArgumentTypeError
from support import cavp
from support.vectors import amounts, pkcs1_vectors, spread, values

RSA = "asymmetric/RSA"
HASHES: dict[str, hashes.HashAlgorithm] = {
    "SHA1": hashes.SHA1(),
    "SHA224": hashes.SHA224(),
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
}
OTHER_HASHES: list[hashes.HashAlgorithm] = [
    hashes.SHA512_224(),
    hashes.SHA512_256(),
    hashes.SHA3_224(),
    hashes.SHA3_256(),
    hashes.SHA3_384(),
    hashes.SHA3_512(),
]
OAEP_CUSTOM = [
    f"{mask}-{algorithm}"
    for mask in ("sha1", "sha224", "sha256", "sha384", "sha512")
    for algorithm in ("sha1", "sha224", "sha256", "sha384", "sha512")
    if (mask, algorithm) != ("sha1", "sha1")
]


@pytest.fixture(scope="module")
def own() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def private(key: rsa.RSAPrivateKey, number: bytes) -> bytes:
    """What the device does."""
    numbers, y = key.private_numbers(), int.from_bytes(number, "big")
    high, low = pow(y, numbers.dmp1, numbers.p), pow(y, numbers.dmq1, numbers.q)
    x = low + (high - low) * numbers.iqmp % numbers.p * numbers.q
    return x.to_bytes(key.key_size // 8, "big")


def opened(n: int, e: int, signature: int) -> bytes:
    """What was signed, as long as the modulus."""
    return pow(signature, e, n).to_bytes((n.bit_length() + 7) // 8, "big")


# -- signatures --------------------------------------------------------------------------------------------------------


def signature_cases(path: str) -> Iterator[tuple[int, int, hashes.HashAlgorithm, bytes, int]]:
    """Modulus, exponent, hash, message, signature of NIST's files."""
    n = e = 0
    for _, fields in cavp.cases(path):
        n = int(fields.get("n", f"{n:x}"), 16)
        e = int(fields.get("e", f"{e:x}"), 16)
        if "S" in fields:
            yield n, e, HASHES[fields["SHAAlg"]], bytes.fromhex(fields["Msg"]), int(fields["S"], 16)


@pytest.mark.parametrize("name", ["SigGen15_186-2.rsp", "SigGen15_186-3.rsp"])
def test_pkcs1_signatures_of_nist(name: str) -> None:
    checked = 0
    for n, e, algorithm, message, signature in signature_cases(f"{RSA}/FIPS_186-2/{name}"):
        expected = opened(n, e, signature)
        assert rsa_padding.emsa_pkcs1("sign", digest(message, algorithm), algorithm, len(expected)) == expected
        checked += 1
    assert checked >= 45


def test_pkcs1_signatures_of_rsa_laboratories() -> None:
    checked = 0
    for group in pkcs1_vectors(f"{RSA}/pkcs1v15sign-vectors.txt"):
        n, e = (int.from_bytes(values(group, label)[0], "big") for label in ("Modulus", "Exponent"))
        for label in ("Message to be signed", "Message"):
            messages = values(group, label)
            if messages:
                break
        for message, signature in zip(messages, values(group, "Signature"), strict=True):
            expected = opened(n, e, int.from_bytes(signature, "big"))
            assert (
                rsa_padding.emsa_pkcs1("sign", digest(message, hashes.SHA1()), hashes.SHA1(), len(expected)) == expected
            )
            checked += 1
    assert checked == 15 * 20


def test_pss_signatures_of_rsa_laboratories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moduli of 1024 to 1031 bits among them: the encoding is one bit shorter, which at 1025 is a byte."""
    checked = 0
    for group in pkcs1_vectors(f"{RSA}/pkcs-1v2-1d2-vec/pss-vect.txt"):
        n, e = (int.from_bytes(values(group, label)[0], "big") for label in ("Modulus", "Exponent"))
        messages = values(group, "Message to be signed") or values(group, "Message")
        for message, salt, signature in zip(messages, values(group, "Salt"), values(group, "Signature"), strict=True):
            monkeypatch.setattr(os, "urandom", lambda count, salt=salt: salt if count == len(salt) else b"")
            sha1 = hashes.SHA1()
            made = rsa_padding.emsa_pss("sign", digest(message, sha1), sha1, sha1, 20, n.bit_length())
            assert int.from_bytes(made, "big") == pow(int.from_bytes(signature, "big"), e, n)
            checked += 1
    assert checked == 10 * 6


@pytest.mark.parametrize("algorithm", [*HASHES.values(), *OTHER_HASHES], ids=lambda algorithm: algorithm.name)
def test_pyca_takes_the_signatures(own: rsa.RSAPrivateKey, algorithm: hashes.HashAlgorithm) -> None:
    data = b"a message"
    hashed, made_by = digest_of("sign", data, algorithm)
    encoded = rsa_padding.emsa_pkcs1("sign", hashed, made_by, 256)
    own.public_key().verify(private(own, encoded), data, padding.PKCS1v15(), algorithm)
    for salt_bytes in (0, 1, algorithm.digest_size, None):
        for mask in (algorithm, hashes.SHA1()):
            encoded = rsa_padding.emsa_pss("sign", hashed, made_by, mask, salt_bytes, 2048)
            length = padding.PSS.MAX_LENGTH if salt_bytes is None else salt_bytes
            pss = padding.PSS(padding.MGF1(mask), length)
            own.public_key().verify(private(own, encoded), data, pss, algorithm)
            with pytest.raises(InvalidSignature):
                own.public_key().verify(private(own, encoded), data + b"?", pss, algorithm)


def test_a_salt_is_another_each_time() -> None:
    sha = hashes.SHA256()
    made = {rsa_padding.emsa_pss("sign", bytes(32), sha, sha, 32, 2048) for _ in range(4)}
    assert len(made) == 4


@pytest.mark.parametrize("salt_bytes", [-1, 223, 1 << 40])
def test_a_salt_that_does_not_fit_is_refused(salt_bytes: int) -> None:
    sha = hashes.SHA256()
    with pytest.raises(ArgumentError, match="the key takes 0 to 222"):
        rsa_padding.emsa_pss("sign", bytes(32), sha, sha, salt_bytes, 2048)
    assert len(rsa_padding.emsa_pss("sign", bytes(32), sha, sha, 222, 2048)) == 256


def test_what_has_no_identifier_is_refused() -> None:
    with pytest.raises(UnsupportedByDeviceError, match="blake2b has no identifier"):
        rsa_padding.emsa_pkcs1("sign", bytes(64), hashes.BLAKE2b(64), 256)


def test_bytes_without_an_identifier_fill_the_key() -> None:
    assert rsa_padding.emsa_pkcs1("sign", b"\xaa" * 245, None, 256) == b"\0\1" + b"\xff" * 8 + b"\0" + b"\xaa" * 245
    with pytest.raises(ArgumentError, match="246 bytes to sign, the key takes 245"):
        rsa_padding.emsa_pkcs1("sign", bytes(246), None, 256)


def test_digests_are_checked() -> None:
    sha = hashes.SHA256()
    assert digest_of("sign", bytearray(bytes(32)), Prehashed(sha)) == (bytes(32), sha)
    with pytest.raises(ArgumentError, match="31 bytes, a sha256 digest has 32"):
        digest_of("sign", bytes(31), Prehashed(sha))
    with pytest.raises(ArgumentTypeError, match="data: str"):
        digest_of("sign", "text", sha)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="algorithm: str"):
        digest_of("sign", b"", "sha256")  # type: ignore[arg-type]


# -- decryption --------------------------------------------------------------------------------------------------------


def oaep_cases(path: str) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Modulus, private exponent, message, ciphertext."""
    for group in pkcs1_vectors(path):
        n = int.from_bytes(values(group, "Modulus")[0], "big")
        d = int.from_bytes(values(group, "Exponent")[1], "big")
        for message, ciphertext in zip(values(group, "Message"), values(group, "Encryption"), strict=True):
            yield n, d, message, ciphertext


def decoded(n: int, d: int, ciphertext: bytes) -> bytes:
    return opened(n, d, int.from_bytes(ciphertext, "big"))


@amounts
def test_oaep_of_rsa_laboratories(amount: int | None) -> None:
    sha = hashes.SHA1()
    for n, d, message, ciphertext in spread(oaep_cases(f"{RSA}/pkcs-1v2-1d2-vec/oaep-vect.txt"), amount):
        encoded = decoded(n, d, ciphertext)
        assert rsa_padding.eme_oaep(encoded, sha, sha, b"") == message
        assert rsa_padding.eme_oaep(encoded, sha, sha, b"label") is None


@amounts
@pytest.mark.parametrize("name", OAEP_CUSTOM)
def test_oaep_with_two_hashes(name: str, amount: int | None) -> None:
    """pyca's own vectors; the file's name has the hash of the mask first."""
    mask, algorithm = (HASHES[word.upper()] for word in name.split("-"))
    for n, d, message, ciphertext in spread(oaep_cases(f"{RSA}/oaep-custom/oaep-{name}.txt"), amount):
        assert rsa_padding.eme_oaep(decoded(n, d, ciphertext), algorithm, mask, b"") == message


def test_oaep_with_a_label() -> None:
    """BoringSSL's vectors."""
    checked = 0
    for _, fields in cavp.cases(f"{RSA}/oaep-label.txt"):
        key = load_der_private_key(bytes.fromhex(fields["KEY"]), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        sha, label = HASHES[fields["OAEPDigest"]], bytes.fromhex(fields["OAEPLabel"])
        expected = re.fullmatch('"(.*)"', fields["Output"])
        assert expected is not None
        encoded = private(key, bytes.fromhex(fields["Input"]))
        assert rsa_padding.eme_oaep(encoded, sha, sha, label) == expected[1].encode()
        assert rsa_padding.eme_oaep(encoded, sha, sha, label + b"?") is None
        checked += 1
    assert checked


@amounts
def test_pkcs1_of_rsa_laboratories(amount: int | None) -> None:
    for n, d, message, ciphertext in spread(oaep_cases(f"{RSA}/pkcs1v15crypt-vectors.txt"), amount):
        assert rsa_padding.eme_pkcs1(decoded(n, d, ciphertext), b"substitute") == message


@given(st.integers(0, 255), st.integers(1, 255))
@example(0, 1)
@example(255, 128)
def test_every_flaw_of_an_oaep_encoding_is_found(own: rsa.RSAPrivateKey, position: int, change: int) -> None:
    sha = hashes.SHA256()
    message = b"\0\1\0 message"
    ciphertext = own.public_key().encrypt(message, padding.OAEP(padding.MGF1(sha), sha, b"label"))
    encoded = bytearray(private(own, ciphertext))
    assert rsa_padding.eme_oaep(bytes(encoded), sha, sha, b"label") == message
    encoded[position] ^= change
    assert rsa_padding.eme_oaep(bytes(encoded), sha, sha, b"label") is None


def test_an_oaep_block_without_a_mark_is_none() -> None:
    """All zeros where 01 should end them."""
    sha = hashes.SHA256()
    block = digest(b"", sha) + bytes(256 - 33 - 32)
    mask = rsa_padding._mgf1(bytes(32), len(block), sha)
    masked = rsa_padding._xor(block, mask)
    seed = rsa_padding._xor(bytes(32), rsa_padding._mgf1(masked, 32, sha))
    assert rsa_padding.eme_oaep(b"\0" + seed + masked, sha, sha, b"") is None
    assert rsa_padding.eme_oaep(bytes(65), sha, sha, b"") is None


FLAWS = {
    "first byte": lambda block: b"\1" + block[1:],
    "block type": lambda block: b"\0\1" + block[2:],
    "zero in the first eight": lambda block: block[:9] + b"\0" + block[10:],
    "no zero": lambda block: block[:2] + block[2:].replace(b"\0", b"\7"),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_flawed_pkcs1_encoding_becomes_a_message_that_is_always_the_same(name: str) -> None:
    good = b"\0\2" + b"\xaa" * 20 + b"\0" + b"m" * 233
    assert rsa_padding.eme_pkcs1(good, b"secret") == b"m" * 233
    bad = FLAWS[name](good)
    assert len(bad) == 256
    made = rsa_padding.eme_pkcs1(bad, b"secret")
    assert made == rsa_padding.eme_pkcs1(bad, b"secret") != rsa_padding.eme_pkcs1(bad, b"another")
    assert b"m" * 20 not in made


def test_substitutes_have_all_lengths() -> None:
    lengths = {len(rsa_padding.eme_pkcs1(bytes(256), number.to_bytes(4, "big"))) for number in range(4000)}
    assert min(lengths) == 0
    assert max(lengths) == 245
    assert len(lengths) > 240


@given(st.binary(max_size=245))
def test_pkcs1_of_pyca(own: rsa.RSAPrivateKey, message: bytes) -> None:
    ciphertext = own.public_key().encrypt(message, padding.PKCS1v15())
    assert rsa_padding.eme_pkcs1(private(own, ciphertext), b"") == message
