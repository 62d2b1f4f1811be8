# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes: each written out by hand from the standard, read and written by the declarations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.spdm import algorithms, messages
from ihsm_abi.spdm.layout import Message, Sizes, SpdmFormatError

NONCE = bytes(range(32))
HASH, SIGNATURE, POINT = b"h" * 48, b"s" * 96, b"p" * 96
SIZES = Sizes(summary=48)


def table(type: int, chosen: int) -> algorithms.AlgorithmTable:
    return algorithms.AlgorithmTable.of(algorithms.TableType(type), chosen)


CASES: dict[str, tuple[Message, bytes]] = {
    "GET_VERSION": (messages.GetVersion(), bytes.fromhex("10840000")),
    "VERSION": (messages.Version(entries=(0x1200,)), bytes.fromhex("1004000000010012")),
    "GET_CAPABILITIES": (
        messages.GetCapabilities(ct_exponent=20, flags=0x2C6, data_transfer_size=0x1000, max_message_size=0x1000),
        bytes.fromhex("12e10000 00 14 0000 c6020000 00100000 00100000"),
    ),
    "CAPABILITIES": (
        messages.Capabilities(ct_exponent=20, flags=0x402D6, data_transfer_size=4088, max_message_size=4088),
        bytes.fromhex("12610000 00 14 0000 d6020400 f80f0000 f80f0000"),
    ),
    "NEGOTIATE_ALGORITHMS": (
        algorithms.NegotiateAlgorithms.of(tables=(table(2, 0x10), table(3, 2), table(5, 1))),
        bytes.fromhex("12e30300 2c00 01 02 80000000 02000000" + 12 * "00" + "00 00 0000 02201000 03200200 05200100"),
    ),
    "ALGORITHMS": (
        algorithms.Algorithms.of(
            measurement_specification=1,
            opaque_format=2,
            measurement_hash=4,
            base_asym=0x80,
            base_hash=2,
            tables=(table(2, 0x10), table(3, 2), table(5, 1)),
        ),
        bytes.fromhex(
            "12630300 3000 01 02 04000000 80000000 02000000" + 12 * "00" + "00 00 0000 02201000 03200200 05200100"
        ),
    ),
    "GET_DIGESTS": (messages.GetDigests(), bytes.fromhex("12810000")),
    "DIGESTS": (messages.Digests(slots=1, digests=(HASH,)), bytes.fromhex("12010001") + HASH),
    "GET_CERTIFICATE": (
        messages.GetCertificate(slot=0, offset=0x102, length=0x304),
        bytes.fromhex("12820000 0201 0403"),
    ),
    "CERTIFICATE": (
        messages.Certificate(slot=0, portion_length=3, remainder_length=0x102, portion=b"abc"),
        bytes.fromhex("12020000 0300 0201") + b"abc",
    ),
    "CHALLENGE": (
        messages.Challenge(slot=0, summary_type=0xFF, nonce=NONCE),
        bytes.fromhex("128300ff") + NONCE,
    ),
    "CHALLENGE_AUTH": (
        messages.ChallengeAuth(
            attributes=0, slots=1, chain_hash=HASH, nonce=NONCE, summary=HASH, opaque=b"o", signature=SIGNATURE
        ),
        bytes.fromhex("12030001") + HASH + NONCE + HASH + b"\1\0o" + SIGNATURE,
    ),
    "GET_MEASUREMENTS": (messages.GetMeasurements(attributes=2, operation=7), bytes.fromhex("12e00207")),
    "GET_MEASUREMENTS with signature": (
        messages.GetMeasurements(attributes=1, operation=0xFF, nonce=NONCE, slot=0),
        bytes.fromhex("12e001ff") + NONCE + b"\0",
    ),
    "MEASUREMENTS": (
        messages.Measurements(
            total=0, slot=0, block_count=1, record=b"record", nonce=NONCE, opaque=b"", signature=SIGNATURE
        ),
        bytes.fromhex("12600000 01 060000") + b"record" + NONCE + b"\0\0" + SIGNATURE,
    ),
    "KEY_EXCHANGE": (
        messages.KeyExchange(
            summary_type=1, slot=0, session_id=0x1234, session_policy=1, random=NONCE, exchange=POINT, opaque=b"o"
        ),
        bytes.fromhex("12e40100 3412 01 00") + NONCE + POINT + b"\1\0o",
    ),
    "KEY_EXCHANGE_RSP": (
        messages.KeyExchangeRsp(
            heartbeat_period=0,
            param2=0,
            session_id=0x1234,
            mut_auth_requested=0,
            slot=0,
            random=NONCE,
            exchange=POINT,
            summary=HASH,
            opaque=b"o",
            signature=SIGNATURE,
            verify_data=HASH,
        ),
        bytes.fromhex("12640000 3412 00 00") + NONCE + POINT + HASH + b"\1\0o" + SIGNATURE + HASH,
    ),
    "FINISH": (messages.Finish(signed=0, slot=0, verify_data=HASH), bytes.fromhex("12e50000") + HASH),
    "FINISH with signature": (
        messages.Finish(signed=1, slot=0, signature=SIGNATURE, verify_data=HASH),
        bytes.fromhex("12e50100") + SIGNATURE + HASH,
    ),
    "FINISH_RSP": (messages.FinishRsp(), bytes.fromhex("12650000")),
    "END_SESSION": (messages.EndSession(), bytes.fromhex("12ec0000")),
    "END_SESSION_ACK": (messages.EndSessionAck(), bytes.fromhex("126c0000")),
    "VENDOR_DEFINED_REQUEST": (
        messages.VendorDefinedRequest(standard=3, vendor=b"\1\0", payload=b"\1xy"),
        bytes.fromhex("12fe0000 0300 02 0100 0300") + b"\1xy",
    ),
    "VENDOR_DEFINED_RESPONSE": (
        messages.VendorDefinedResponse(standard=3, vendor=b"\1\0", payload=b"\1xy"),
        bytes.fromhex("127e0000 0300 02 0100 0300") + b"\1xy",
    ),
    "ERROR": (messages.Error(code=7, data=0x85), bytes.fromhex("127f0785")),
    "ERROR with a length": (
        messages.ErrorTooLarge(code=0x0D, data=0, response_bytes=0x102),
        bytes.fromhex("127f0d00 02010000"),
    ),
}


@pytest.mark.parametrize(("message", "encoded"), CASES.values(), ids=CASES)
def test_the_bytes_are_the_standards(message: Message, encoded: bytes) -> None:
    assert message.encode() == encoded
    assert type(message).decode(encoded, SIZES) == (message, len(encoded))


@pytest.mark.parametrize(("message", "encoded"), CASES.values(), ids=CASES)
def test_a_message_may_be_padded_to_a_dword_and_no_more(message: Message, encoded: bytes) -> None:
    assert type(message).decode(encoded + b"\xa5\xa5\xa5", SIZES) == (message, len(encoded))
    with pytest.raises(SpdmFormatError, match=f"in a message of {len(encoded)}"):
        type(message).decode(encoded + bytes(4), SIZES)
    with pytest.raises(SpdmFormatError):
        type(message).decode(encoded + b"\0", SIZES, padding=0)


@pytest.mark.parametrize(("message", "encoded"), CASES.values(), ids=CASES)
def test_a_message_that_is_cut_anywhere_is_refused(message: Message, encoded: bytes) -> None:
    for size in range(len(encoded)):
        with pytest.raises(SpdmFormatError):
            type(message).decode(encoded[:size], SIZES, padding=0)


def test_another_code_is_refused() -> None:
    with pytest.raises(SpdmFormatError, match="no GetVersion"):
        messages.GetVersion.decode(bytes.fromhex("10830000"))


@pytest.mark.parametrize(
    "tables",
    [
        pytest.param((table(3, 2), table(2, 0x10)), id="falling"),
        pytest.param((table(3, 2), table(3, 2)), id="twice"),
        pytest.param((algorithms.AlgorithmTable(type=6, counts=0x20, algorithms=1),), id="unknown"),
        pytest.param((algorithms.AlgorithmTable(type=2, counts=0x10, algorithms=1),), id="one byte wide"),
    ],
)
def test_tables_of_algorithms_are_in_order(tables: tuple[algorithms.AlgorithmTable, ...]) -> None:
    with pytest.raises(SpdmFormatError):
        algorithms.NegotiateAlgorithms.decode(algorithms.NegotiateAlgorithms.of(tables=tables).encode())


def test_the_length_of_algorithms_is_the_messages() -> None:
    encoded = bytearray(algorithms.NegotiateAlgorithms.of().encode())
    encoded[4] += 1
    with pytest.raises(SpdmFormatError, match="length 33 of a message of 32"):
        algorithms.NegotiateAlgorithms.decode(bytes(encoded))
    encoded = bytearray(CASES["ALGORITHMS"][1])
    encoded[4] -= 1
    with pytest.raises(SpdmFormatError, match="length 47 of a message of 48"):
        algorithms.Algorithms.decode(bytes(encoded))


def test_a_field_has_its_length() -> None:
    with pytest.raises(ValueError, match="31 bytes in a field of 32"):
        messages.Challenge(slot=0, summary_type=0, nonce=bytes(31)).encode()


@pytest.mark.parametrize(
    ("signatures", "hashes", "groups", "refused"),
    [(0, 24, 0, "24 extended"), (0, 25, 0, "132"), (10, 10, 1, "21 extended"), (20, 0, 0, ""), (4, 3, 13, "")],
)
def test_a_negotiation_has_128_bytes_and_20_extended_algorithms_at_most(
    signatures: int, hashes: int, groups: int, refused: str
) -> None:
    extended, more = (bytes(4),) * (signatures + hashes), (bytes(4),) * groups
    tables = (algorithms.AlgorithmTable(type=2, counts=0x20 | groups, algorithms=16, extended=more),) if groups else ()
    message = algorithms.NegotiateAlgorithms(
        table_count=len(tables),
        length=32 + 4 * (len(extended) + len(tables) + groups),
        measurement_specification=1,
        opaque_formats=2,
        base_asym=0,
        base_hash=0,
        extended_asym_count=signatures,
        extended_hash_count=hashes,
        extended=extended,
        tables=tables,
    )
    if not refused:
        assert algorithms.NegotiateAlgorithms.decode(message.encode())[0] == message
        return
    with pytest.raises(SpdmFormatError, match=refused):
        algorithms.NegotiateAlgorithms.decode(message.encode())


@given(st.sampled_from(sorted(CASES)), st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    layout = type(CASES[name][0])
    try:
        message, size = layout.decode(bytes([0x12, layout.CODE]) + data, SIZES)
    except SpdmFormatError:
        return
    assert len(message.encode()) == size
