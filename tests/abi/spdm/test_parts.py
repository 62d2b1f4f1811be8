# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What messages carry, and what is signed, derived and encrypted, as bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.spdm import chain, key_schedule, measurements, opaque, secured, signing
from ihsm_abi.spdm.layout import SpdmFormatError

LIST_1_1 = bytes.fromhex("01000000 00 00 0500 01 01 01 0011 000000")
SELECTED_1_1 = bytes.fromhex("01000000 00 00 0400 01 00 0011")


def test_opaque_data_of_the_key_exchange() -> None:
    assert opaque.supported_versions() == LIST_1_1
    assert opaque.read_supported_versions(LIST_1_1) == (0x1100,)
    assert opaque.selected_version() == SELECTED_1_1
    assert opaque.read_selected_version(SELECTED_1_1) == 0x1100


def test_elements_of_others_are_passed_over() -> None:
    foreign = bytes.fromhex("03020100 0200 abcd")
    both = b"\2\0\0\0" + foreign + LIST_1_1[4:]
    assert opaque.read_supported_versions(both) == (0x1100,)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(LIST_1_1[:-1], id="not padded"),
        pytest.param(LIST_1_1 + bytes(4), id="bytes behind"),
        pytest.param(b"\0\0\0\0", id="no element"),
        pytest.param(b"\2\0\0\0" + 2 * LIST_1_1[4:], id="two lists"),
        pytest.param(SELECTED_1_1, id="a selection"),
        pytest.param(LIST_1_1.replace(b"\1\1\1\0\x11", b"\1\1\2\0\x11"), id="more versions than there are"),
        pytest.param(LIST_1_1.replace(b"\5\0\1\1\1", b"\5\0\2\1\1"), id="another data version"),
    ],
)
def test_a_bad_list_of_versions_is_refused(data: bytes) -> None:
    with pytest.raises(SpdmFormatError):
        opaque.read_supported_versions(data)


def test_a_measurement_block() -> None:
    kind = measurements.MeasurementType.MUTABLE_FIRMWARE
    raw = measurements.MeasurementBlock.of(7, kind, b"abc", raw=True)
    digest = measurements.MeasurementBlock.of(8, kind, b"defg", raw=False)
    record = measurements.encode_record([raw, digest])
    assert record == bytes.fromhex("07 01 0600 81 0300") + b"abc" + bytes.fromhex("08 01 0700 01 0400") + b"defg"
    assert measurements.decode_record(record, 2) == (raw, digest)
    assert (raw.type, raw.raw, raw.value) == (kind, True, b"abc")
    assert (digest.type, digest.raw, digest.value) == (kind, False, b"defg")


@pytest.mark.parametrize(
    ("record", "count"),
    [
        pytest.param("07 01 0600 81 0300 616263", 2, id="fewer blocks"),
        pytest.param("07 01 0600 81 0300 616263", 0, id="more blocks"),
        pytest.param("07 02 0600 81 0300 616263", 1, id="another specification"),
        pytest.param("07 01 0600 81 0200 616263", 1, id="a value shorter than its block"),
        pytest.param("07 01 0600 81 0400 616263", 1, id="a value longer than its block"),
    ],
)
def test_a_bad_record_is_refused(record: str, count: int) -> None:
    with pytest.raises(SpdmFormatError):
        measurements.decode_record(bytes.fromhex(record), count)


def test_the_registers_have_all_blocks_in_order() -> None:
    blocks = [block for register in measurements.REGISTERS.values() for block in register]
    assert blocks == list(range(measurements.FIRST_BLOCK, measurements.LAST_BLOCK + 1))


def test_a_chain() -> None:
    certificates = (b"\x30\x03abc", b"\x30\x81\x80" + bytes(128), b"\x30\x82\x01\x00" + bytes(256))
    encoded = chain.encode_chain(b"r" * 48, certificates)
    assert encoded[:4] == len(encoded).to_bytes(2, "little") + b"\0\0"
    assert chain.decode_chain(encoded, 48) == (b"r" * 48, certificates)


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda c: c + b"\0", lambda c: c.replace(b"\x30\3", b"\x31\3")])
def test_a_bad_chain_is_refused(spoil) -> None:
    with pytest.raises(SpdmFormatError):
        chain.decode_chain(spoil(chain.encode_chain(b"r" * 48, [b"\x30\x03abc"])), 48)


def test_signatures_are_over_a_prefix_of_100_bytes() -> None:
    for context in signing.SigningContext:
        signed = signing.signed_message(context, b"hash")
        assert signed == 4 * b"dmtf-spdm-v1.2.*" + context.value.rjust(36, b"\0") + b"hash"


def test_labels_of_the_key_schedule() -> None:
    assert key_schedule.KEY_INFO == b"\x20\0spdm1.2 key"
    assert key_schedule.IV_INFO == b"\x0c\0spdm1.2 iv"
    assert key_schedule.info(48, key_schedule.Label.REQUEST_DATA, b"TH2") == b"\x30\0spdm1.2 req app dataTH2"


def test_a_record() -> None:
    session = secured.session_id(0x1234, 0x5678)
    header = secured.record_header(session, 4)
    assert header == bytes.fromhex("34127856 1600")
    data = header + b"c" * 6 + b"t" * 16
    assert secured.read_record(data + bytes(3)) == (session, header, b"c" * 6, b"t" * 16)
    assert secured.plaintext(b"text") == b"\4\0text"
    assert secured.message_of(b"\4\0textrandom") == b"text"
    for wrong in (data[:-1], data + bytes(4), bytes.fromhex("34127856 1100") + bytes(17)):
        with pytest.raises(SpdmFormatError):
            secured.read_record(wrong)


@given(st.binary(min_size=12, max_size=12), st.integers(0, secured.MAX_SEQUENCE))
def test_the_nonce_of_a_record(salt: bytes, sequence: int) -> None:
    number = bytes(a ^ b for a, b in zip(salt, secured.record_iv(salt, sequence), strict=True))
    assert int.from_bytes(number, "little") == sequence
