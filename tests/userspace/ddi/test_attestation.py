# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attestation reports: every recorded one verifies, no damaged one does."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.ddi import AttestationError, verify_report
from ihsm.ddi.certificates import identity_key
from ihsm_abi.ddi import AttestKeyResp, GetCertificateResp, decode_response
from ihsm_abi.ddi.attestation import REPORT_MAX_BYTES, AttestationFlags
from support.ddi_replay import lines

CONVERSATIONS = lines("crypto-conversations.jsonl")
REPORTS = [line for line in CONVERSATIONS[1:] if line["conv"] == "attest" and line["status"] == "Success"]
CERTIFICATE = next(line for line in CONVERSATIONS[1:] if line["op"] == "GetCertificate")


def response(line: dict[str, Any], cls: Any) -> Any:
    return decode_response(bytes.fromhex(line["resp"]), cls)[1]


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
