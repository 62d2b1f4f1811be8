# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attestation reports against the worked example and the client table of spec 05 §14."""

import hashlib

import pytest

from ihsm_abi.ddi import EccCurve, KeyAttributeFlags
from ihsm_device.hsm.identity.report import Claim, Report, claims, cose_ec_key, cose_rsa_key, signed, to_be_signed
from ihsm_device.hsm.keystore import RsaPublic
from ihsm_device.hsm.profile import AttestationClaims
from ihsm_device.hsm.wire import Family

F = KeyAttributeFlags
X = bytes.fromhex("966486710ddefb75558eaab23cf5633ce0602eec129106f392b54932e1f669e8")
Y = bytes.fromhex("587d423627b39fed30d8768e813fe2277c1b26ca3bb05d78b7d3c6496831d2b9")
SIGNATURE = bytes.fromhex(
    "34962c90fd6839e7a4929b0917a94d1f4ebc08a047045ab6794b1d183887abbbdfa4ee95be96ccde0dcdf02cfa544e88"
    "1f94d2130420e0d46fa949771c704b901784776164cdb8e325a4ff96f2759f881fbe8ea45747735b167cbf039d2d6cca"
)


def test_worked_example() -> None:
    payload = Report(
        cose_ec_key(EccCurve.P256, X, Y), Claim(0x64), bytes(range(0x70, 0x80)), b"\2" * 128, bytes(16)
    ).payload()
    assert len(payload) == 705
    assert payload.startswith(bytes.fromhex("a700010159020d"))
    assert hashlib.sha384(to_be_signed(payload)).hexdigest() == (
        "cea43e653575806b3fee7447d1d663f95b176f5a26a0f3465cc0e18119fa9518a41211c9d757a425de7940b97f7f74cf"
    )
    report = signed(payload, SIGNATURE)
    assert len(report) == 832
    assert hashlib.sha256(report).hexdigest() == "2f7c91309e884bf4a49941a6751e3c703e490cbbba8cc936a9091e157e9238cc"


def test_short_report_data_is_filled_up() -> None:
    short, full = (Report(b"", Claim(0), bytes(16), data, bytes(16)).payload() for data in (b"a", b"a" + bytes(127)))
    assert short == full


@pytest.mark.parametrize(("curve", "size", "length"), [(1, 32, 75), (2, 48, 107), (3, 66, 143)])
def test_ec_key_lengths(curve: int, size: int, length: int) -> None:
    assert len(cose_ec_key(EccCurve(curve), bytes(size), bytes(size))) == length


@pytest.mark.parametrize(("modulus", "length"), [(256, 269), (384, 397), (512, 525)])
def test_rsa_key_lengths(modulus: int, length: int) -> None:
    assert len(cose_rsa_key(RsaPublic(b"\xff" * modulus, b"\1\0\1"))) == length


@pytest.mark.parametrize(
    ("flags", "family", "expected", "stored"),
    [
        (F.LOCAL | F.SIGN | F.VERIFY, Family.ECC, 0x64, 0x64),
        (F.LOCAL | F.DERIVE, Family.ECC, 0x204, 0x204),
        (F.LOCAL | F.WRAP | F.UNWRAP, Family.RSA, 0x104, 0x184),
        (F.ENCRYPT | F.DECRYPT, Family.RSA, 0x19, 0x19),
        (F.LOCAL | F.ENCRYPT | F.DECRYPT, Family.AES, 0x1C, 0x1C),
        (F.SESSION | F.LOCAL | F.ENCRYPT | F.DECRYPT, Family.BULK, 0x1B, 0x1E),
        (F.SESSION | F.LOCAL | F.SIGN | F.VERIFY, Family.HMAC, 0x06, 0x66),
        (F.SESSION | F.LOCAL | F.DERIVE, Family.SECRET, 0x206, 0x206),
    ],
)
def test_claims(flags: KeyAttributeFlags, family: Family, expected: int, stored: int) -> None:
    assert claims(flags, family, AttestationClaims.CLIENT_TABLE) == expected
    assert claims(flags, family, AttestationClaims.STORED_FLAGS) == stored
