# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""IDE_KM and TDISP in a session of DMTF's libspdm, with its structures: all that its archive in Debian has of them."""

from __future__ import annotations

import os
import struct
from typing import Any, Final

from support.libspdm import LibspdmRequester
from support.libspdm_structures import decode, encode, number

FUNCTION: Final = 0x0108
STREAM: Final = 7


class Tsm:
    """A session with a function."""

    def __init__(self, requester: LibspdmRequester) -> None:
        """The session begins."""
        requester.start_session()
        self.requester = requester

    def ide(self, request: bytes) -> bytes:
        """What answers an object of IDE_KM."""
        answer = self.requester.vendor_defined(b"\0" + request)
        assert answer[0] == 0
        return answer[1:]

    def tdisp(self, kind: str, code: str, more: bytes = b"", **fields: object) -> bytes:
        """What answers a message of TDISP."""
        head = {
            "header__version": number("TDISP_MESSAGE_VERSION_10"),
            "header__message_type": number(f"TDISP_{code}"),
            "header__interface_id__function_id": FUNCTION,
        }
        answer = self.requester.vendor_defined(b"\1" + encode(f"tdisp_{kind}", more, **head, **fields))
        assert answer[0] == 1
        return answer[1:]

    def check(self, answer: Any, code: str) -> Any:
        """An answer whose header is that of a message."""
        assert answer.header.version == 0x10
        assert answer.header.message_type == number(f"TDISP_{code}")
        assert answer.header.interface_id.function_id == FUNCTION
        return answer


def lock_run_and_stop(tsm: Tsm) -> None:
    """Keys of the stream, which is enabled, and the interface's whole life; the session ends."""
    query = tsm.ide(encode("ide_km_query", header__object_id=number("IDE_KM_OBJECT_ID_QUERY")))
    answer = decode("ide_km_query_resp", query, exact=False)
    assert (answer.header.object_id, answer.port_index, answer.max_port_index) == (1, 0, 0)
    assert (len(query) - 7) % 4 == 0
    places = [
        number(f"IDE_KM_KEY_SUB_STREAM_{sub}") | number(f"IDE_KM_KEY_DIRECTION_{way}")
        for way in ("RX", "TX")
        for sub in ("PR", "NPR", "CPL")
    ]
    for place in places:
        secret = os.urandom(32) + struct.pack("<II", 0, 1)
        key = encode("ide_km_key_prog", secret, header__object_id=2, stream_id=STREAM, key_sub_stream=place)
        done = decode("ide_km_kp_ack", tsm.ide(key))
        assert (done.header.object_id, done.stream_id, done.key_sub_stream) == (3, STREAM, place)
        assert done.status == number("IDE_KM_KP_ACK_STATUS_SUCCESS")
    for place in places:
        go = encode("ide_km_k_set_go", header__object_id=4, stream_id=STREAM, key_sub_stream=place)
        acknowledged = decode("ide_km_k_gostop_ack", tsm.ide(go))
        assert acknowledged.header.object_id == number("IDE_KM_OBJECT_ID_K_SET_GOSTOP_ACK")
        assert (acknowledged.stream_id, acknowledged.key_sub_stream) == (STREAM, place)

    version = decode("tdisp_version_response", tsm.tdisp("get_version_request", "GET_VERSION")[:-1])
    assert tsm.check(version, "VERSION").version_num_count == 1
    caps = decode("tdisp_capabilities_response", tsm.tdisp("get_capabilities_request", "GET_CAPABILITIES"))
    assert tsm.check(caps, "CAPABILITIES").rsp_caps.dev_addr_width == 64
    assert (caps.rsp_caps.lock_interface_flags_supported, caps.rsp_caps.num_req_this) == (7, 1)
    lock = tsm.tdisp("lock_interface_request", "LOCK_INTERFACE_REQ", lock_interface_param__default_stream_id=STREAM,
                     lock_interface_param__flags=number("TDISP_LOCK_INTERFACE_FLAGS_NO_FW_UPDATE"))  # fmt: skip
    nonce = bytes(tsm.check(decode("tdisp_lock_interface_response", lock), "LOCK_INTERFACE_RSP").start_interface_nonce)
    report = tsm.tdisp("get_device_interface_report_request", "GET_DEVICE_INTERFACE_REPORT", length=0xFFFF)
    head = decode("tdisp_device_interface_report_response", report, exact=False)
    tsm.check(head, "DEVICE_INTERFACE_REPORT")
    assert (head.portion_length, head.remainder_length) == (len(report) - 20, 0)
    inside = decode("tdisp_device_interface_report_struct", report[20:], exact=False)
    assert (inside.interface_info, inside.mmio_range_count) == (3, 3)
    last = decode("tdisp_mmio_range", report[20 + 16 + 32 : 20 + 16 + 48])
    assert (last.number_of_pages, last.range_attributes, last.range_id) == (1, 3, 4)
    spoilt = tsm.tdisp("start_interface_request", "START_INTERFACE_REQ", start_interface_nonce=bytes(32))
    error = tsm.check(decode("tdisp_error_response", spoilt), "ERROR")
    assert error.error_code == number("TDISP_ERROR_CODE_INVALID_NONCE")
    start = tsm.tdisp("start_interface_request", "START_INTERFACE_REQ", start_interface_nonce=nonce)
    tsm.check(decode("tdisp_start_interface_response", start), "START_INTERFACE_RSP")
    state = tsm.tdisp("get_device_interface_state_request", "GET_DEVICE_INTERFACE_STATE")
    running = tsm.check(decode("tdisp_device_interface_state_response", state), "DEVICE_INTERFACE_STATE")
    assert running.tdi_state == number("TDISP_INTERFACE_STATE_RUN")
    stop = tsm.tdisp("stop_interface_request", "STOP_INTERFACE_REQ")
    tsm.check(decode("tdisp_stop_interface_response", stop), "STOP_INTERFACE_RSP")
    stopped = encode("ide_km_k_set_stop", header__object_id=5, stream_id=STREAM)
    assert decode("ide_km_k_gostop_ack", tsm.ide(stopped)).header.object_id == 6
    tsm.requester.end_session()
