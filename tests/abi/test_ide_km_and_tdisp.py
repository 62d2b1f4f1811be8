# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Objects of IDE_KM and messages of TDISP as bytes, written out by hand from the standard."""

from __future__ import annotations

import pytest

from ihsm_abi import ide_km, tdisp
from ihsm_abi.spdm.layout import Layout, Reader, SpdmFormatError

KEY, NONCE = bytes(range(32)), bytes(range(32, 64))
CASES: dict[str, tuple[Layout, str]] = {
    "QUERY": (ide_km.Query(port=3), "00 00 03"),
    "QUERY_RESP": (
        ide_km.QueryResp(port=3, device_function=4, bus=5, segment=6, last_port=7),
        "01 00 03 04 05 06 07",
    ),
    "KEY_PROG": (
        ide_km.KeyProg(stream=1, key_sub_stream=0x23, port=3, key=KEY, iv=ide_km.IV_START),
        "02 0000 01 00 23 03" + KEY.hex() + "00000000 01000000",
    ),
    "KP_ACK": (ide_km.KpAck(stream=1, status=2, key_sub_stream=0x23, port=3), "03 0000 01 02 23 03"),
    "K_SET_GO": (ide_km.KeySet(object_id=4, stream=1, key_sub_stream=2, port=3), "04 0000 01 00 02 03"),
    "K_SET_STOP": (ide_km.KeySet(object_id=5, stream=1, key_sub_stream=2, port=3), "05 0000 01 00 02 03"),
    "K_GOSTOP_ACK": (ide_km.KeySet(object_id=6, stream=1, key_sub_stream=2, port=3), "06 0000 01 00 02 03"),
    "a header of TDISP": (tdisp.Header(type=0x81, function_id=0x0108), "10 81 0000 08010000" + 8 * "00"),
    "TDISP_VERSION": (tdisp.VersionAnswer(versions=(0x10,)), "01 10"),
    "GET_TDISP_CAPABILITIES": (tdisp.CapabilitiesRequest(tsm_caps=1), "01000000"),
    "TDISP_CAPABILITIES": (
        tdisp.CapabilitiesAnswer(
            dsm_caps=0, requests=KEY[:16], lock_flags=7, address_width=64, requests_this=1, requests_all=2
        ),
        "00000000" + KEY[:16].hex() + "0700 000000 40 01 02",
    ),
    "LOCK_INTERFACE_REQUEST": (
        tdisp.LockRequest(flags=5, default_stream=1, mmio_reporting_offset=0x1000, bind_p2p_address_mask=2),
        "0500 01 00 0010000000000000 0200000000000000",
    ),
    "a nonce": (tdisp.Nonce(nonce=NONCE), NONCE.hex()),
    "GET_DEVICE_INTERFACE_REPORT": (tdisp.ReportRequest(offset=1, length=0x102), "0100 0201"),
    "DEVICE_INTERFACE_REPORT": (
        tdisp.ReportAnswer(portion_length=2, remainder_length=3, portion=b"ab"),
        "0200 0300 6162",
    ),
    "DEVICE_INTERFACE_STATE": (tdisp.StateAnswer(state=2), "02"),
    "TDISP_ERROR": (tdisp.ErrorAnswer(code=tdisp.TdispError.INVALID_NONCE), "02010000 00000000"),
    "the head of a report": (
        tdisp.ReportHead(interface_info=3, msix_message_control=0x8001, lnr_control=0, tph_control=0, range_count=3),
        "0300 0000 0180 0000 00000000 03000000",
    ),
    "a range": (
        tdisp.MmioRange(first_page=0x12345, pages=1, attributes=tdisp.MmioAttributes.of(msix_table=1, range_id=4)),
        "4523010000000000 01000000 01000400",
    ),
    "the end of a report": (tdisp.DeviceInfo(info=b""), "00000000"),
}


@pytest.mark.parametrize(("layout", "text"), CASES.values(), ids=CASES)
def test_the_bytes_are_the_standards(layout: Layout, text: str) -> None:
    encoded = bytes.fromhex(text)
    assert layout.encode() == encoded
    reader = Reader(encoded)
    assert type(layout).read(reader) == layout
    reader.end()


def test_a_report_of_three_ranges_has_68_bytes() -> None:
    head = tdisp.ReportHead(
        interface_info=2, msix_message_control=0, lnr_control=0, tph_control=0, range_count=3
    ).encode()
    ranges = 3 * tdisp.MmioRange(first_page=0, pages=1, attributes=0).encode()
    assert len(head + ranges + tdisp.DeviceInfo(info=b"").encode()) == 68


@pytest.mark.parametrize("name", ["QUERY", "KEY_PROG", "KP_ACK", "K_SET_GO", "K_SET_STOP", "K_GOSTOP_ACK"])
def test_objects_are_told_by_their_ids(name: str) -> None:
    layout, text = CASES[name]
    encoded = bytes.fromhex(text)
    assert ide_km.decode(encoded) == layout
    for other in (encoded[:-1], encoded + b"\0"):
        with pytest.raises(SpdmFormatError):
            ide_km.decode(other)


@pytest.mark.parametrize("data", [b"", b"\1" + bytes(6), b"\7" + bytes(6)])
def test_other_objects(data: bytes) -> None:
    assert ide_km.decode(data) is None
