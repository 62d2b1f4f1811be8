# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Published RSA vectors through the device's private operation, and OAEP through its import key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ihsm.ddi import StatusError
from ihsm.ddi.wrapping import HASHES
from ihsm_abi.ddi import DdiStatus, HashAlgorithm, KeyClass, RsaCryptoPadding, RsaOpType
from ihsm_abi.ddi.firmware_ops import RsaUnwrapKekReq, RsaUnwrapKekResp
from support import cavp
from support.vectors import SIGN, VectorBench, amounts, pkcs1_vectors, rsa_private_key, spread, values

SIZES: Final = (2048, 3072, 4096)
PKCS1: Final = "asymmetric/RSA/pkcs-1v2-1d2-vec"
key_classes = pytest.mark.parametrize("key_class", [KeyClass.Rsa, KeyClass.RsaCrt], ids=["plain", "crt"])


def key_of(group: list[tuple[str, bytes]]) -> rsa.RSAPrivateKey | None:
    """The key pair of RSA Laboratories' vectors, if a device can have it."""
    p, q, e, d = (
        int.from_bytes(values(group, label)[-1], "big")
        for label in ("Prime 1", "Prime 2", "Public exponent", "Exponent")
    )
    return rsa_private_key(p, q, e, d) if (p * q).bit_length() in SIZES else None


def private_operation(bench: VectorBench, own: rsa.RSAPrivateKey, key_class: KeyClass, y: list[int]) -> list[int]:
    """RSASP1 and RSADP (RFC 8017 §5) of some numbers."""
    size = own.key_size // 8
    with bench.private(own, key_class, SIGN) as key:
        return [
            int.from_bytes(bench.session.rsa_mod_exp(key, value.to_bytes(size, "big"), RsaOpType.Sign), "big")
            for value in y
        ]


@pytest.mark.parametrize("path", ["asymmetric/RSA/pkcs1v15sign-vectors.txt", f"{PKCS1}/pss-vect.txt"])
@key_classes
def test_signatures(bench: VectorBench, path: str, key_class: KeyClass) -> None:
    """The device makes RSA Laboratories' signatures of their padded messages, the public operation undoes them."""
    checked = 0
    for group in pkcs1_vectors(path):
        own = key_of(group)
        if own is None:
            continue
        public = own.public_key().public_numbers()
        signatures = [int.from_bytes(value, "big") for value in values(group, "Signature")]
        padded = [pow(signature, public.e, public.n) for signature in signatures]
        assert private_operation(bench, own, key_class, padded) == signatures
        checked += len(signatures)
    assert checked in (6, 20)


def nist_signatures(path: str, size: int) -> Iterator[tuple[rsa.RSAPrivateKey, int]]:
    """Keys and good signatures of a SigVer file whose exponent a device can have."""
    primes: dict[str, str] = {}
    for section, case in cavp.cases(f"asymmetric/RSA/FIPS_186-2/{path}"):
        if section != f"mod = {size}":
            continue
        primes = case if "p" in case else primes | case
        if case.get("Result", "").startswith("P") and int(case["e"], 16) < 1 << 32:
            yield (
                rsa_private_key(*(int(primes[name], 16) for name in ("p", "q", "e", "d"))),
                int(case["S"], 16),
            )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["SigVer15_186-3.rsp", "SigVerPSS_186-3.rsp"])
@key_classes
@amounts
def test_nist_signatures(bench: VectorBench, path: str, size: int, key_class: KeyClass, amount: int | None) -> None:
    """The same with NIST's keys of all sizes."""
    found = list(nist_signatures(path, size))
    for own, signature in spread(found, amount and 1):
        public = own.public_key().public_numbers()
        padded = pow(signature, public.e, public.n)
        assert private_operation(bench, own, key_class, [padded]) == [signature]


def mgf1(seed: bytes, size: int, name: str) -> bytes:
    """RFC 8017 §B.2.1."""
    blocks = -(-size // hashlib.new(name).digest_size)
    return b"".join(hashlib.new(name, seed + number.to_bytes(4, "big")).digest() for number in range(blocks))[:size]


def mix(data: bytes, mask: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(data, mask, strict=True))


def oaep_encode(message: bytes, size: int, name: str, *, label: bytes = b"", separator: bytes = b"\x01") -> bytes:
    """RFC 8017 §7.1.1, with what an attacker may change."""
    width = hashlib.new(name).digest_size
    block = hashlib.new(name, label).digest() + bytes(size - len(message) - 2 * width - 2) + separator + message
    seed = os.urandom(width)
    masked = mix(block, mgf1(seed, len(block), name))
    return b"\0" + mix(seed, mgf1(masked, width, name)) + masked


def oaep_decode(encoded: bytes, name: str) -> bytes:
    """RFC 8017 §7.1.2, for good encodings."""
    width = hashlib.new(name).digest_size
    seed = mix(encoded[1 : width + 1], mgf1(encoded[width + 1 :], width, name))
    block = mix(encoded[width + 1 :], mgf1(seed, len(encoded) - width - 1, name))
    assert encoded[0] == 0
    assert block.startswith(hashlib.new(name).digest())
    return block[block.index(b"\x01", width) + 1 :]


OAEP_FILES: Final = {"sha1": f"{PKCS1}/oaep-vect.txt"} | {
    name: f"asymmetric/RSA/oaep-custom/oaep-{name}-{name}.txt" for name in ("sha256", "sha384", "sha512")
}


@pytest.mark.parametrize("name", OAEP_FILES)
@key_classes
def test_oaep_decryption(bench: VectorBench, name: str, key_class: KeyClass) -> None:
    """The device's private operation takes OAEP vectors back to their messages."""
    checked = 0
    for group in pkcs1_vectors(OAEP_FILES[name]):
        own = key_of(group)
        if own is None:
            continue
        encrypted = [int.from_bytes(value, "big") for value in values(group, "Encryption")]
        blocks = private_operation(bench, own, key_class, encrypted)
        messages = [oaep_decode(block.to_bytes(own.key_size // 8, "big"), name) for block in blocks]
        assert messages == (values(group, "Message") or values(group, "Message to be encrypted"))
        checked += len(messages)
    assert checked


def unwrap_kek(bench: VectorBench, blob: bytes, algorithm: HashAlgorithm) -> bytes:
    request = RsaUnwrapKekReq(
        key_id=bench.session.unwrapping_key().key_id,
        wrapped_blob=blob + bytes(16),
        wrapped_blob_padding=RsaCryptoPadding.Oaep,
        wrapped_blob_hash_algorithm=algorithm,
    )
    return bench.session.call(request, RsaUnwrapKekResp).kek


def encrypt_raw(bench: VectorBench, block: bytes) -> bytes:
    numbers = bench.session.unwrapping_key().public_key.public_numbers()
    assert isinstance(numbers, rsa.RSAPublicNumbers)
    return pow(int.from_bytes(block, "big"), numbers.e, numbers.n).to_bytes(256, "big")


@pytest.mark.parametrize("algorithm", HASHES, ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("size", [16, 24, 32])
def test_oaep_of_the_import_key(bench: VectorBench, algorithm: HashAlgorithm, size: int) -> None:
    """What another library encrypts for the import key, and what this file encodes, comes back."""
    kek = os.urandom(size)
    public = bench.session.unwrapping_key().public_key
    assert isinstance(public, rsa.RSAPublicKey)
    hashing = HASHES[algorithm]()
    blob = public.encrypt(kek, padding.OAEP(padding.MGF1(hashing), hashing, None))
    assert unwrap_kek(bench, blob, algorithm) == kek
    assert unwrap_kek(bench, encrypt_raw(bench, oaep_encode(kek, 256, hashing.name)), algorithm) == kek


def test_bad_oaep(bench: VectorBench) -> None:
    """Every way to go wrong that Project Wycheproof knows gives one and the same status."""
    kek, size = os.urandom(32), 256
    good = oaep_encode(kek, size, "sha256")
    bad = {
        "label": oaep_encode(kek, size, "sha256", label=b"another"),
        "hash": oaep_encode(kek, size, "sha384"),
        "separator 0": oaep_encode(kek, size, "sha256", separator=b"\x00"),
        "separator 2": oaep_encode(kek, size, "sha256", separator=b"\x02"),
        "separator 255": oaep_encode(kek, size, "sha256", separator=b"\xff"),
        "first octet 1": b"\x01" + good[1:],
        "seed": good[:5] + bytes([good[5] ^ 1]) + good[6:],
        "block": good[:200] + bytes([good[200] ^ 0x80]) + good[201:],
    }
    statuses = {}
    for name, block in bad.items():
        with pytest.raises(StatusError) as refused:
            unwrap_kek(bench, encrypt_raw(bench, block), HashAlgorithm.Sha256)
        statuses[name] = refused.value.status
    assert set(statuses.values()) == {DdiStatus.RsaUnwrapOaepDecodeFailed}, statuses
