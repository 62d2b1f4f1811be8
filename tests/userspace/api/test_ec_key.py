# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""EC keys of the device as pyca's private keys, with pyca and OpenSSL as judges."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm import Hsm
from ihsm.api.digests import DEVICE_HASHES
from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.errors import KeyNotExportableError, UnsupportedByDeviceError
from ihsm.errors import ArgumentError, ArgumentTypeError
from support.waiting import HANG_S

KINDS = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
HASHES: list[hashes.HashAlgorithm] = [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]
ECDSA = ec.ECDSA(hashes.SHA256())
Labels = Callable[[str], str]


@pytest.fixture(scope="module")
def keys(hsm: Hsm) -> dict[str, EcPrivateKey]:
    return {kind: cast(EcPrivateKey, hsm.generate(kind, kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_private_key_of_pyca(keys: dict[str, EcPrivateKey], kind: str) -> None:
    key = keys[kind]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.public_key(), ec.EllipticCurvePublicKey)
    assert key.curve.name == KINDS[kind].name
    assert key.key_size == KINDS[kind].key_size
    assert (key.origin, key.kind, key.version) == ("device", kind, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", HASHES, ids=lambda algorithm: algorithm.name)
def test_signatures(keys: dict[str, EcPrivateKey], kind: str, algorithm: hashes.HashAlgorithm) -> None:
    """Digests that are longer than the order as well: their left part counts (FIPS 186-5 §6.4)."""
    key, public = keys[kind], keys[kind].public_key()
    for message in (b"", b"message", bytearray(b"array"), memoryview(bytes(100_000))):
        public.verify(key.sign(message, ec.ECDSA(algorithm)), bytes(message), ec.ECDSA(algorithm))
    signature = key.sign(data=b"message", signature_algorithm=ec.ECDSA(algorithm))
    for other in (b"massage", b""):
        with pytest.raises(InvalidSignature):
            public.verify(signature, other, ec.ECDSA(algorithm))
    hasher = hashes.Hash(algorithm)
    hasher.update(b"message")
    signature = key.sign(hasher.finalize(), ec.ECDSA(Prehashed(algorithm)))
    public.verify(signature, b"message", ec.ECDSA(algorithm))


def test_signatures_are_der_and_differ(keys: dict[str, EcPrivateKey]) -> None:
    signatures = {keys["p521"].sign(b"m", ECDSA) for _ in range(50)}
    assert len(signatures) == 50
    for signature in signatures:
        r, s = decode_dss_signature(signature)
        assert 0 < r < 1 << 521
        assert 0 < s < 1 << 521


@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA3_256(), hashes.SHA512_256(), hashes.BLAKE2s(32)])
def test_other_hashes_are_refused(keys: dict[str, EcPrivateKey], algorithm: hashes.HashAlgorithm) -> None:
    for given in (algorithm, Prehashed(algorithm)):
        with pytest.raises(UnsupportedAlgorithm, match=f"signs with sha1, .*sha512, not {algorithm.name}"):
            keys["p256"].sign(bytes(algorithm.digest_size), ec.ECDSA(given))
    assert algorithm.name not in DEVICE_HASHES


def test_what_is_no_algorithm_or_data(keys: dict[str, EcPrivateKey]) -> None:
    key = keys["p256"]
    with pytest.raises(UnsupportedByDeviceError, match="signature_algorithm SHA256; ECDSA is possible"):
        key.sign(b"m", hashes.SHA256())  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="data: str"):
        key.sign("text", ECDSA)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="33 bytes, a sha256 digest has 32"):
        key.sign(bytes(33), ec.ECDSA(Prehashed(hashes.SHA256())))
    with pytest.raises(UnsupportedByDeviceError, match="RFC 6979"):
        key.sign(b"m", ec.ECDSA(hashes.SHA256(), deterministic_signing=True))


def test_nothing_private_comes_out(keys: dict[str, EcPrivateKey]) -> None:
    key = keys["p256"]
    for error in (KeyNotExportableError, UnsupportedAlgorithm, TypeError):
        with pytest.raises(error, match="private_bytes: key 'p256' is in the device and does not leave it"):
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(UnsupportedAlgorithm, match=r"exchange: .* agree\(peer\)"):
        key.exchange(ec.ECDH(), ec.generate_private_key(ec.SECP256R1()).public_key())
    numbers = key.private_numbers()
    assert numbers.public_numbers == key.public_key().public_numbers()
    for name in ("private_value", "private_key"):
        with pytest.raises(KeyNotExportableError, match=rf"private_numbers\(\)\.{name}: key 'p256'"):
            getattr(numbers, name)
        assert getattr(type(numbers), name) is not None, "inspecting the class is allowed"


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_key_signs_as_itself(hsm: Hsm, kind: str) -> None:
    for number in range(3):
        own = ec.generate_private_key(KINDS[kind])
        key = cast(EcPrivateKey, hsm.import_key(f"own {kind} {number}", own))
        assert key.public_key() == own.public_key()
        own.public_key().verify(key.sign(b"m", ECDSA), b"m", ECDSA)


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_are_signed_with_it(keys: dict[str, EcPrivateKey], kind: str) -> None:
    key = keys[kind]
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "web")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA384())
    certificate.verify_directly_issued_by(certificate)
    request = x509.CertificateSigningRequestBuilder(name).sign(key, hashes.SHA256())
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()


def test_coroutines_sign(keys: dict[str, EcPrivateKey]) -> None:
    async def run() -> None:
        async def sign(number: int) -> None:
            key, message = keys[list(KINDS)[number % 3]], b"%d" % number
            key.public_key().verify(await key.sign_async(message, ECDSA), message, ECDSA)

        await asyncio.gather(*(sign(number) for number in range(64)))
        with pytest.raises(UnsupportedByDeviceError):
            await keys["p256"].sign_async(b"m", cast(Any, "ECDSA"))

    asyncio.run(asyncio.wait_for(run(), HANG_S))
