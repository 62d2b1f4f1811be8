# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA keys of the device as pyca's private keys, with pyca as judge."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm import Hsm
from ihsm.api.errors import InvalidCiphertextError, KeyNotExportableError, UnsupportedByDeviceError
from ihsm.api.kinds import Usage
from ihsm.api.rsa_key import RsaPrivateKey
from ihsm.errors import ArgumentError, ArgumentTypeError, IhsmError
from support.waiting import HANG_S

SHA: list[hashes.HashAlgorithm] = [hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
SHA256 = hashes.SHA256()
PKCS1 = padding.PKCS1v15()
OAEP = padding.OAEP(padding.MGF1(SHA256), SHA256, None)
BITS = (2048, 3072, 4096)


@pytest.fixture(scope="module")
def keys(hsm: Hsm) -> dict[int, RsaPrivateKey]:
    """Each for both usages."""
    made = {bits: hsm.generate(f"rsa {bits}", f"rsa{bits}", usage={"sign", "decrypt"}) for bits in BITS}
    return cast(dict[int, RsaPrivateKey], made)


@pytest.mark.parametrize("bits", BITS)
def test_it_is_a_private_key_of_pyca(keys: dict[int, RsaPrivateKey], bits: int) -> None:
    key = keys[bits]
    assert isinstance(key, rsa.RSAPrivateKey)
    assert isinstance(key.public_key(), rsa.RSAPublicKey)
    assert key.key_size == bits == key.public_key().key_size
    assert key.public_key().public_numbers().e == 65537
    assert (key.origin, key.usages) == ("host", (Usage.SIGN, Usage.DECRYPT)), "the device makes no RSA keys"


def verified(key: RsaPrivateKey, pad: padding.AsymmetricPadding, algorithm: Any) -> None:
    signature = key.sign(data=b"message", padding=pad, algorithm=algorithm)
    assert len(signature) == key.key_size // 8
    key.public_key().verify(signature, b"message", pad, algorithm)
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, b"massage", pad, algorithm)
    hasher = hashes.Hash(algorithm)
    hasher.update(b"message")
    signature = key.sign(bytearray(hasher.finalize()), pad, Prehashed(algorithm))
    key.public_key().verify(signature, b"message", pad, algorithm)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("algorithm", [*SHA, hashes.SHA3_256()], ids=lambda algorithm: algorithm.name)
def test_signatures(keys: dict[int, RsaPrivateKey], bits: int, algorithm: hashes.HashAlgorithm) -> None:
    verified(keys[bits], PKCS1, algorithm)
    for salt in (0, 7, padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH):
        verified(keys[bits], padding.PSS(padding.MGF1(algorithm), cast(int, salt)), algorithm)
    verified(keys[bits], padding.PSS(padding.MGF1(hashes.SHA1()), 20), algorithm)


def test_bytes_without_an_identifier(keys: dict[int, RsaPrivateKey]) -> None:
    """As TLS 1.1 and PKCS#11's CKM_RSA_PKCS sign."""
    signature = keys[2048].sign(b"any bytes", PKCS1, NoDigestInfo())
    assert keys[2048].public_key().recover_data_from_signature(signature, PKCS1, None) == b"any bytes"
    with pytest.raises(ArgumentError, match="246 bytes to sign, the key takes 245"):
        keys[2048].sign(bytes(246), PKCS1, NoDigestInfo())
    with pytest.raises(ArgumentTypeError, match="NoDigestInfo belongs to PKCS1v15"):
        keys[2048].sign(b"m", padding.PSS(padding.MGF1(SHA256), 32), NoDigestInfo())


def test_what_cannot_be_signed(keys: dict[int, RsaPrivateKey]) -> None:
    key = keys[2048]
    wrong: list[tuple[Any, Any, Any, type[Exception], str]] = [
        ("text", PKCS1, SHA256, ArgumentTypeError, "data: str"),
        (b"m", "padding", SHA256, ArgumentTypeError, "padding: str, must be PKCS1v15 or PSS"),
        (b"m", OAEP, SHA256, UnsupportedByDeviceError, "PKCS1v15 or PSS are possible"),
        (b"m", PKCS1, "sha256", ArgumentTypeError, "algorithm: str"),
        (b"m", PKCS1, Prehashed(SHA256), ArgumentError, "1 bytes, a sha256 digest has 32"),
        (b"m", PKCS1, hashes.BLAKE2b(64), UnsupportedAlgorithm, "blake2b has no identifier"),
        (b"m", padding.PSS(padding.MGF1(SHA256), padding.PSS.AUTO), SHA256, ValueError, "AUTO is for verifying"),
        (b"m", padding.PSS(padding.MGF1(SHA256), 223), SHA256, ValueError, "223 bytes, the key takes 0 to 222"),
    ]
    for data, pad, algorithm, error, match in wrong:
        with pytest.raises(error, match=match) as raised:
            key.sign(data, pad, algorithm)
        assert isinstance(raised.value, IhsmError)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("algorithm", SHA, ids=lambda algorithm: algorithm.name)
def test_oaep(keys: dict[int, RsaPrivateKey], bits: int, algorithm: hashes.HashAlgorithm) -> None:
    key = keys[bits]
    longest = bits // 8 - 2 * algorithm.digest_size - 2
    for mask in (algorithm, hashes.SHA1()):
        for label in (None, b"", b"label", bytes(1000)):
            pad = padding.OAEP(padding.MGF1(mask), algorithm, label)
            for message in (b"", b"\0", bytes(longest)):
                assert key.decrypt(key.public_key().encrypt(message, pad), pad) == message
    ciphertext = key.public_key().encrypt(b"m", padding.OAEP(padding.MGF1(algorithm), algorithm, b"one"))
    with pytest.raises(ValueError, match="not one of this key and label"):
        key.decrypt(ciphertext=ciphertext, padding=padding.OAEP(padding.MGF1(algorithm), algorithm, b"other"))


@pytest.mark.parametrize("bits", BITS)
def test_pkcs1(keys: dict[int, RsaPrivateKey], bits: int) -> None:
    key = keys[bits]
    for message in (b"", b"\0", b"message", bytes(bits // 8 - 11)):
        assert key.decrypt(key.public_key().encrypt(message, PKCS1), PKCS1) == message


def test_a_ciphertext_that_is_none_tells_nothing(keys: dict[int, RsaPrivateKey]) -> None:
    key = keys[2048]
    flawed = [b"\1" + bytes(254) + bytes([number]) for number in range(8)]
    made = [key.decrypt(each, PKCS1) for each in flawed]
    assert made == [key.decrypt(each, PKCS1) for each in flawed]
    assert len(set(made)) > 1
    for each in flawed:
        with pytest.raises(InvalidCiphertextError):
            key.decrypt(each, OAEP)


def test_what_cannot_be_decrypted(keys: dict[int, RsaPrivateKey]) -> None:
    key = keys[2048]
    n = key.public_key().public_numbers().n
    wrong: list[tuple[Any, Any, type[Exception], str]] = [
        ("text", PKCS1, ArgumentTypeError, "ciphertext: str"),
        (bytes(255), PKCS1, ValueError, "255 bytes, must be 256"),
        (bytes(257), OAEP, ValueError, "257 bytes, must be 256"),
        (n.to_bytes(256, "big"), PKCS1, ValueError, "not one of this key"),
        (b"\xff" * 256, OAEP, ValueError, "not one of this key"),
        (bytes(256), "padding", ArgumentTypeError, "padding: str, must be OAEP or PKCS1v15"),
        (bytes(256), padding.PSS(padding.MGF1(SHA256), 32), UnsupportedByDeviceError, "OAEP or PKCS1v15 are possible"),
    ]
    for data, pad, error, match in wrong:
        with pytest.raises(error, match=match) as raised:
            key.decrypt(data, pad)
        assert isinstance(raised.value, IhsmError)


def test_nothing_private_comes_out(keys: dict[int, RsaPrivateKey]) -> None:
    key = keys[2048]
    with pytest.raises(KeyNotExportableError, match="private_bytes: key 'rsa 2048'"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    numbers = key.private_numbers()
    assert numbers.public_numbers == key.public_key().public_numbers()
    for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp", "private_key"):
        with pytest.raises(KeyNotExportableError, match=rf"private_numbers\(\)\.{name}: key 'rsa 2048'"):
            getattr(numbers, name)


def test_one_object_for_two_usages(hsm: Hsm) -> None:
    own = rsa.generate_private_key(65537, 2048)
    key = cast(RsaPrivateKey, hsm.import_key("both", own, usage=["decrypt", "sign"]))
    assert key.usages == (Usage.SIGN, Usage.DECRYPT)
    own.public_key().verify(key.sign(b"m", PKCS1, SHA256), b"m", PKCS1, SHA256)
    assert key.decrypt(own.public_key().encrypt(b"m", OAEP), OAEP) == b"m"
    alone = cast(RsaPrivateKey, hsm.import_key("decrypts", own, usage="decrypt"))
    assert alone.decrypt(own.public_key().encrypt(b"m", OAEP), OAEP) == b"m"
    with pytest.raises(ArgumentError, match="'decrypts' was made for decrypt, sign is needed"):
        alone.sign(b"m", PKCS1, SHA256)


def test_certificates_are_signed_with_it(keys: dict[int, RsaPrivateKey]) -> None:
    key = keys[2048]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    for rsa_padding in (None, padding.PSS(padding.MGF1(SHA256), padding.PSS.DIGEST_LENGTH)):
        certificate = builder.sign(key, SHA256, rsa_padding=rsa_padding)
        certificate.verify_directly_issued_by(certificate)


def test_coroutines(keys: dict[int, RsaPrivateKey]) -> None:
    async def run() -> None:
        async def sign(number: int) -> None:
            key, message = keys[BITS[number % 3]], b"%d" % number
            key.public_key().verify(await key.sign_async(message, PKCS1, SHA256), message, PKCS1, SHA256)
            assert await key.decrypt_async(key.public_key().encrypt(message, OAEP), OAEP) == message

        await asyncio.gather(*(sign(number) for number in range(16)))

    asyncio.run(asyncio.wait_for(run(), HANG_S))
