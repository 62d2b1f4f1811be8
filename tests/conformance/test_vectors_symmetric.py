# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Published vectors of AES, hashes and HMAC through the device's operations."""

from __future__ import annotations

import hashlib
from typing import Final

import pytest

from ihsm.ddi import StatusError
from ihsm_abi.ddi import AesOp, DdiStatus, HashAlgorithm, KeyType
from ihsm_abi.ddi.firmware_ops import (
    ShaDigestGenerateReq,
    ShaDigestGenerateResp,
    SoftAesOp,
    SoftAesReq,
    SoftAesResp,
)
from ihsm_abi.ddi.limits import HMAC_MESSAGE_MAX_BYTES
from support import cavp
from support.vectors import ENCRYPT, SIGN, VectorBench, amounts, spread

AES_TYPES: Final = {16: KeyType.Aes128, 24: KeyType.Aes192, 32: KeyType.Aes256}
AES_FILES: Final = [
    f"{kind}{bits}" for kind in ("GFSbox", "KeySbox", "MMT", "VarKey", "VarTxt") for bits in (128, 192, 256)
]
HASH_FILES: Final = [
    (f"hashes/{folder}/{name}{kind}Msg.rsp", algorithm)
    for kind in ("Short", "Long")
    for folder, name, algorithm in (
        ("SHA1", "SHA1", HashAlgorithm.Sha1),
        ("SHA2", "SHA256", HashAlgorithm.Sha256),
        ("SHA2", "SHA384", HashAlgorithm.Sha384),
        ("SHA2", "SHA512", HashAlgorithm.Sha512),
    )
]
MESSAGE_MAX_BYTES: Final = 1024
HMACS: Final = [
    ("sha256", KeyType.VarHmac256, KeyType.HmacSha256, 32),
    ("sha384", KeyType.VarHmac384, KeyType.HmacSha384, 48),
    ("sha512", KeyType.VarHmac512, KeyType.HmacSha512, 64),
]


@pytest.mark.parametrize("name", AES_FILES)
@amounts
def test_aes_cbc(bench: VectorBench, name: str, amount: int | None) -> None:
    cases = list(cavp.cases(f"ciphers/AES/CBC/CBC{name}.rsp"))
    for heading, op, source, target in (
        ("ENCRYPT", AesOp.Encrypt, "PLAINTEXT", "CIPHERTEXT"),
        ("DECRYPT", AesOp.Decrypt, "CIPHERTEXT", "PLAINTEXT"),
    ):
        for case in spread((case for section, case in cases if section == heading), amount):
            secret = bytes.fromhex(case["KEY"])
            with bench.raw(secret, AES_TYPES[len(secret)], ENCRYPT) as key:
                result, _ = bench.session.aes_cbc(key, op, bytes.fromhex(case[source]), bytes.fromhex(case["IV"]))
            assert result.hex() == case[target], case


def soft_aes(bench: VectorBench, key: str, data: str, op: SoftAesOp) -> bytes:
    request = SoftAesReq(key=bytes.fromhex(key), inout=bytes.fromhex(data), op=op)
    return bench.session.call(request, SoftAesResp).plaintext


@pytest.mark.parametrize("name", AES_FILES)
@amounts
def test_aes_ecb_decryption(bench: VectorBench, name: str, amount: int | None) -> None:
    cases = (case for section, case in cavp.cases(f"ciphers/AES/ECB/ECB{name}.rsp") if section == "DECRYPT")
    for case in spread(cases, amount):
        assert soft_aes(bench, case["KEY"], case["CIPHERTEXT"], SoftAesOp.EcbDecrypt).hex() == case["PLAINTEXT"]


@pytest.mark.parametrize("bits", [128, 192, 256])
@amounts
def test_aes_key_wrap_with_padding(bench: VectorBench, bits: int, amount: int | None) -> None:
    """NIST SP 800-38F KWP-AD: what is authentic unwraps, the rest fails."""
    for wanted in ("P", "FAIL"):
        cases = (case for _, case in cavp.cases(f"keywrap/kwtestvectors/KWP_AD_{bits}.txt") if wanted in case)
        for case in spread(cases, amount):
            if wanted == "P":
                assert soft_aes(bench, case["K"], case["C"], SoftAesOp.Kwp).hex() == case["P"], case
                continue
            with pytest.raises(StatusError) as refused:
                soft_aes(bench, case["K"], case["C"], SoftAesOp.Kwp)
            assert refused.value.status is DdiStatus.FailedSoftAesResponse


def digest(bench: VectorBench, algorithm: HashAlgorithm, message: bytes) -> bytes:
    return bench.session.call(ShaDigestGenerateReq(sha_mode=algorithm, msg=message), ShaDigestGenerateResp).digest


@pytest.mark.parametrize(("path", "algorithm"), HASH_FILES, ids=[path.split("/")[-1] for path, _ in HASH_FILES])
@amounts
def test_hashes(bench: VectorBench, path: str, algorithm: HashAlgorithm, amount: int | None) -> None:
    cases = (case for _, case in cavp.cases(path) if "Len" in case and int(case["Len"]) <= 8 * MESSAGE_MAX_BYTES)
    for case in spread(cases, amount):
        message = bytes.fromhex(case["Msg"])[: int(case["Len"]) // 8]
        assert digest(bench, algorithm, message).hex() == case["MD"], case


@pytest.mark.parametrize(("name", "variable", "fixed", "size"), HMACS)
def test_hmac(bench: VectorBench, name: str, variable: KeyType, fixed: KeyType, size: int) -> None:
    """RFC 4231. Its keys have other lengths than the device's, but mean the same (RFC 2104): a short key is one with
    zeros behind it, a key longer than a block is its hash."""
    block = hashlib.new(name).block_size
    for _, case in cavp.cases(f"HMAC/rfc-4231-{name}.txt"):
        secret, message = bytes.fromhex(case["Key"]), bytes.fromhex(case["Msg"])
        assert len(message) <= HMAC_MESSAGE_MAX_BYTES
        if len(secret) > block:
            secret = digest(bench, HashAlgorithm[name.capitalize()], secret)
        for key_type, length in ((fixed, size), (variable, size + 1), (variable, max(size, block // 2))):
            if len(secret) <= length:
                with bench.raw(secret.ljust(length, b"\0"), key_type, SIGN) as key:
                    assert bench.session.hmac(key, message).hex() == case["MD"], case
