# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attestation reports: every recorded one verifies, no damaged one does."""

import contextlib
from typing import Any

import cbor2
import cwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.ddi import AttestationError, AttestationReport, verify_report
from ihsm.ddi.certificates import identity_key
from ihsm.ddi.pota import raw_signature
from ihsm.errors import ArgumentTypeError
from ihsm_abi.ddi import AttestKeyResp, GetCertificateResp, decode_response
from ihsm_abi.ddi.attestation import (
    COSE_SIGN1_TAG,
    ES384,
    PUBLIC_KEY_BYTES,
    REPORT_MAX_BYTES,
    REPORT_VERSION,
    AttestationFlags,
    ReportField,
)
from support.ddi_replay import lines

CONVERSATIONS = lines("crypto-conversations.jsonl")
REPORTS = [line for line in CONVERSATIONS[1:] if line["conv"] == "attest" and line["status"] == "Success"]
CERTIFICATE = next(line for line in CONVERSATIONS[1:] if line["op"] == "GetCertificate")


def response(line: dict[str, Any], cls: Any) -> Any:
    return decode_response(bytes.fromhex(line["resp"]), cls)[1]


SIGNER = ec.derive_private_key(0xBADC0DE, ec.SECP384R1())
FIELDS: dict[Any, Any] = {
    ReportField.VERSION: REPORT_VERSION,
    ReportField.PUBLIC_KEY: bytes(PUBLIC_KEY_BYTES),
    ReportField.PUBLIC_KEY_SIZE: 0,
    ReportField.FLAGS: AttestationFlags.SIGN,
    ReportField.APP_UUID: bytes(range(16)),
    ReportField.REPORT_DATA: bytes(128),
    ReportField.VM_LAUNCH_ID: bytes(16),
}


def payload(**changed: Any) -> bytes:
    """Encoded fields, some of them replaced; `attested` is the key, encoded or to be encoded."""
    attested = changed.pop("attested", b"")
    encoded = attested if isinstance(attested, bytes) else cbor2.dumps(attested)
    key = {"PUBLIC_KEY": encoded.ljust(PUBLIC_KEY_BYTES, b"\0"), "PUBLIC_KEY_SIZE": len(encoded)}
    given = FIELDS | {ReportField[name]: value for name, value in (key | changed).items()}
    return cbor2.dumps({int(label): value for label, value in given.items()})


def signed(
    content: bytes,
    protected: Any = None,
    unprotected: Any = None,
    *,
    tag: int = COSE_SIGN1_TAG,
    more: Any = (),
) -> bytes:
    """A COSE_Sign1 by SIGNER over any content, under any headers."""
    head = protected if isinstance(protected, bytes) else cbor2.dumps({1: ES384} if protected is None else protected)
    der = SIGNER.sign(cbor2.dumps(["Signature1", head, b"", content]), ec.ECDSA(hashes.SHA384()))
    parts = [head, {} if unprotected is None else unprotected, content, raw_signature(der), *more]
    return cbor2.dumps(cbor2.CBORTag(tag, parts))


def check(report: bytes) -> AttestationReport:
    return verify_report(report, SIGNER.public_key())


IDENTITY = identity_key(response(CERTIFICATE, GetCertificateResp).certificate)
SAMPLE = response(REPORTS[0], AttestKeyResp).report


@pytest.mark.parametrize("line", REPORTS, ids=lambda line: line["step"].replace(" ", "_"))
def test_recorded_reports(line: dict[str, Any]) -> None:
    report = response(line, AttestKeyResp).report
    assert len(report) <= REPORT_MAX_BYTES
    verified = verify_report(report, IDENTITY, report_data=bytes.fromhex(line["in"]["report_data"]))
    expected = line["expect"]
    assert verified.flags == AttestationFlags(expected["flags"])
    assert verified.app_uuid.hex() == expected["app_uuid"]
    assert verified.report_data.hex() == expected["report_data"]
    assert verified.vm_launch_id.hex() == expected["vm_launch_id"]
    if expected["public_key_size"] in (75, 107, 143):
        assert isinstance(verified.public_key, ec.EllipticCurvePublicKey)
        assert verified.public_key.key_size == {75: 256, 107: 384, 143: 521}[expected["public_key_size"]]
    else:
        assert isinstance(verified.public_key, rsa.RSAPublicKey)


def test_another_identity_or_other_data_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(AttestationError):
        verify_report(SAMPLE, stranger)
    with pytest.raises(AttestationError, match="other report data"):
        verify_report(SAMPLE, IDENTITY, report_data=b"something else")


@settings(max_examples=60)
@given(st.integers(0, len(SAMPLE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(position: int, change: int) -> None:
    """Only the unprotected header and the CBOR tag may be written differently without changing what is signed."""
    damaged = bytearray(SAMPLE)
    damaged[position] ^= change
    try:
        verified = verify_report(bytes(damaged), IDENTITY)
    except AttestationError:
        return
    assert verified == verify_report(SAMPLE, IDENTITY)


@given(st.binary(max_size=120))
def test_random_bytes_are_no_report(junk: bytes) -> None:
    with pytest.raises(AttestationError):
        verify_report(junk, IDENTITY)


@pytest.mark.parametrize("line", REPORTS, ids=lambda line: line["step"].replace(" ", "_"))
def test_another_library_verifies_the_same(line: dict[str, Any]) -> None:
    report = response(line, AttestKeyResp).report
    pem = IDENTITY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    fields = cbor2.loads(cwt.COSE.new().decode(report, cwt.COSEKey.from_pem(pem, alg="ES384")))
    assert fields[ReportField.APP_UUID] == verify_report(report, IDENTITY).app_uuid


@pytest.mark.parametrize(
    ("protected", "unprotected"),
    [
        ({1: ES384}, {}),
        ({1: ES384, 3: "application/cbor"}, {}),
        ({1: ES384, 3: 60}, {4: b"key id"}),
        ({1: ES384, 2: [1]}, {}),
        ({1: ES384, 2: [1, 3], 3: 60}, {}),
        ({1: ES384, 99: b"not critical"}, {98: [1, {2: 3}]}),
    ],
)
def test_headers_that_are_understood(protected: Any, unprotected: Any) -> None:
    assert check(signed(payload(), protected, unprotected)).app_uuid == bytes(range(16))


@pytest.mark.parametrize(
    ("protected", "unprotected", "text"),
    [
        ({}, {}, "algorithm None"),
        (b"", {1: ES384}, "algorithm None"),
        ({1: -7}, {}, "algorithm -7"),
        ({1: "ES384"}, {}, "algorithm 'ES384'"),
        ({1: ES384}, {1: ES384}, "wrong header"),
        ({1: ES384}, {2: [99]}, "wrong header"),
        ({1: ES384, 2: [99], 99: 1}, {}, "critical label 99"),
        ({1: ES384, 2: [1, 99]}, {}, "critical label 99"),
        ({1: ES384, 2: ["text"], "text": 1}, {}, "critical label 'text'"),
        ({1: ES384, 2: [[1]]}, {}, "critical label"),
        ({1: ES384, 2: [3]}, {}, "critical label 3"),
        ({1: ES384, 2: []}, {}, "critical labels"),
        ({1: ES384, 2: 1}, {}, "critical labels"),
        ({1: ES384, 3: "text/plain"}, {}, "type 'text/plain'"),
        (b"\x80", {}, "no map"),
        (b"\xa2\x01\x38\x22\x01\x26", {}, "twice"),
        (b"\xa1\x01\x38\x22\x00", {}, "after the item"),
        ({1: ES384}, [], "no map"),
        ({1: ES384}, b"", "no map"),
    ],
)
def test_headers_that_ask_for_more(protected: Any, unprotected: Any, text: str) -> None:
    with pytest.raises(AttestationError, match=text):
        check(signed(payload(), protected, {} if unprotected is None else unprotected))


def test_what_is_no_cose_sign1() -> None:
    good = signed(payload())
    for bad in (
        signed(payload(), tag=98),
        signed(payload(), more=(b"",)),
        good[1:],
        good + b"\0",
        good[:-1],
        good.replace(b"\x58\x60", b"\x58\x5f", 1)[:-1],
    ):
        with pytest.raises(AttestationError):
            check(bad)


POINT = SIGNER.public_key().public_numbers()
X, Y = POINT.x.to_bytes(48, "big"), POINT.y.to_bytes(48, "big")


@pytest.mark.parametrize(
    "attested",
    [
        [], "a", 1, b"\xf6", b"\x9f\xff", cbor2.CBORTag(36, "x"), bytes.fromhex("c5821b000000007fffffff01"),
        bytes.fromhex("d81c81d81d00"), bytes.fromhex("a1800000"), {}, {1: 99}, {1: [2]}, {1: 2}, {1: "EC2"},
        {1: 2, -1: 2, -2: X}, {1: 2, -1: 2, -2: X, -3: True}, {1: 2, -1: 2, -2: X, -3: X},
        {1: 2, -1: 2, -2: X, -3: Y[1:]},
        {1: 2, -1: 2, -2: 1, -3: 2}, {1: 2, -1: 8, -2: X, -3: Y}, {1: 2, -1: [2], -2: X, -3: Y},
        {1: 2, -1: 2, -2: X, -3: Y, 4: [1]}, {1: 3, -1: b"", -2: b""}, {1: 3, -1: b"\xff" * 128, -2: b"\1\0\1"},
        {1: 3, -1: b"\xff" * 256, -2: b"\2"}, {1: 3, -1: "n", -2: 3}, {1: 1, -1: 6, -2: X[:32]}, {1: 4, -1: b"secret"},
    ],
)  # fmt: skip
def test_attested_keys_that_are_none(attested: Any) -> None:
    with pytest.raises(AttestationError, match="attested"):
        check(signed(payload(attested=attested)))


def test_an_attested_key() -> None:
    report = check(signed(payload(attested={1: 2, -1: 2, -2: X, -3: Y})))
    assert report.public_key == SIGNER.public_key()
    assert check(signed(payload())).public_key is None


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"VERSION": 2}, "version 2, not 1"),
        ({"VERSION": "1"}, "version '1', not 1"),
        ({"PUBLIC_KEY": bytes(524)}, "PUBLIC_KEY is not 525"),
        ({"PUBLIC_KEY_SIZE": 526}, "size of the key, 526"),
        ({"PUBLIC_KEY_SIZE": -1}, "size of the key, -1"),
        ({"PUBLIC_KEY_SIZE": b""}, "size of the key"),
        ({"PUBLIC_KEY": b"\1".rjust(PUBLIC_KEY_BYTES, b"\0")}, "size of the key, 0"),
        ({"FLAGS": 1 << 10}, "unknown claims"),
        ({"FLAGS": -1}, "unknown claims"),
        ({"FLAGS": 1 << 63}, "unknown claims"),
        ({"FLAGS": "64"}, "unknown claims"),
        ({"APP_UUID": "text that has 16"}, "APP_UUID"),
        ({"REPORT_DATA": bytes(127)}, "REPORT_DATA"),
        ({"VM_LAUNCH_ID": []}, "VM_LAUNCH_ID"),
    ],
)
def test_payloads_that_are_none(changed: dict[str, Any], text: str) -> None:
    with pytest.raises(AttestationError, match=text):
        check(signed(payload(**changed)))


def test_a_later_version_is_named_whatever_else_it_has() -> None:
    for fields in ({0: 2}, {0: 2, 7: b"new"}):
        with pytest.raises(AttestationError, match="version 2, not 1"):
            check(signed(cbor2.dumps(fields)))
    with pytest.raises(AttestationError, match="seven fields"):
        check(signed(cbor2.dumps({0: 1, 7: b"new"})))


@settings(max_examples=200)
@given(content=st.binary(max_size=60), protected=st.binary(max_size=12))
def test_whatever_is_signed_is_a_report_or_none(content: bytes, protected: bytes) -> None:
    for report in (signed(content), signed(payload(), protected), signed(payload(attested=content))):
        with contextlib.suppress(AttestationError):
            assert isinstance(check(report), AttestationReport)


INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
ANYTHING = st.recursive(
    st.one_of(INTEGERS, st.binary(max_size=49), st.text(max_size=4), st.sampled_from([True, None])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.integers(-4, 9), inner, max_size=5)),
    max_leaves=8,
)


@settings(max_examples=300)
@given(content=ANYTHING, header=ANYTHING, attested=ANYTHING)
def test_whatever_structure_is_signed_is_a_report_or_none(content: Any, header: Any, attested: Any) -> None:
    in_key = cbor2.dumps(attested)[:PUBLIC_KEY_BYTES]
    for report in (signed(cbor2.dumps(content)), signed(payload(), header, header), signed(payload(attested=in_key))):
        with contextlib.suppress(AttestationError):
            assert isinstance(check(report), AttestationReport)


def test_arguments_of_wrong_types() -> None:
    p256: Any = ec.generate_private_key(ec.SECP256R1()).public_key()
    text: Any = "text"
    for arguments, name in (((SAMPLE, p256), "identity"), ((SAMPLE, text), "identity"), ((text, IDENTITY), "report")):
        with pytest.raises(ArgumentTypeError, match=f"verify_report: {name}: "):
            verify_report(*arguments)
