# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the programs include: headers.py FOLDER writes azihsm.h, the driver's interface, and messages.h there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np

from ihsm_abi import cheader
from ihsm_abi.ddi import (
    API_REV,
    DdiOp,
    DdiStatus,
    GetApiRevReq,
    GetApiRevResp,
    GetCertChainInfoReq,
    GetCertificateReq,
    GetDeviceInfoReq,
    RespHdr,
    encode_message,
    encode_request,
)
from ihsm_abi.uapi import DEVICE_INFO, GENERIC_IOCTL, Ioctl

CERTIFICATES: Final = 4
"""Of a chain that is at least so long, each by a request of its own."""


def write(folder: Path) -> None:
    """Write both headers."""
    write_interface(folder)
    (folder / "messages.h").write_text(message_header())


def write_interface(folder: Path) -> None:
    """Write the driver's interface alone."""
    cheader.main(["--uapi", str(folder / "azihsm.h")])


def api_rev_answer() -> bytes:
    """What a device says to GetApiRev."""
    header = RespHdr(rev=None, op=DdiOp.GetApiRev, sess_id=None, status=DdiStatus.Success, fips_approved=False)
    return encode_message(header, GetApiRevResp(min=API_REV, max=API_REV))


def requests() -> list[bytes]:
    """Requests without a session, each of which is answered differently."""
    certificates = [encode_request(GetCertificateReq(slot_id=0, cert_id=number)) for number in range(CERTIFICATES)]
    return [
        encode_request(GetApiRevReq()),
        encode_request(GetDeviceInfoReq()),
        encode_request(GetCertChainInfoReq(slot_id=0)),
        *certificates,
        b"no message",
    ]


def message_header() -> str:
    """`messages.h`: the messages that the C programs send, and how they are answered."""
    longest = max(map(len, requests()))
    rows = "".join(f"    {{{len(message)}, {_braced(message)}}},\n" for message in requests())
    arrays = {
        "get_api_rev": encode_request(GetApiRevReq()),
        "get_api_rev_answer": api_rev_answer(),
        "get_device_info": encode_request(GetDeviceInfoReq()),
    }
    unused = "__attribute__((unused)) static const"
    return (
        "#pragma once\n#include <stdint.h>\n"
        + "".join(f"{unused} uint8_t {name}[] = {_braced(data)};\n" for name, data in arrays.items())
        + f"{unused} struct {{ uint32_t size; uint8_t bytes[{longest}]; }} requests[] = {{\n{rows}}};\n"
    )


def _braced(data: bytes) -> str:
    return "{" + ", ".join(map(str, data)) + "}"


def go_declarations() -> str:
    """`declarations.go`: what the program in Go knows of the driver's interface."""
    numbers = {
        "ioctlGetDevInfo": Ioctl.GET_DEV_INFO,
        "ioctlGenericSession": Ioctl.GENERIC_SESSION,
        "deviceInfoSize": DEVICE_INFO.itemsize,
        "driverRevAt": _offset(DEVICE_INFO, "driver_rev"),
        "driverRevSize": DEVICE_INFO["driver_rev"].itemsize,
        "genericSize": GENERIC_IOCTL.itemsize,
        "srcLengthAt": _offset(GENERIC_IOCTL, "src_length"),
        "srcBufAt": _offset(GENERIC_IOCTL, "src_buf"),
        "dstLengthAt": _offset(GENERIC_IOCTL, "dst_length"),
        "dstBufAt": _offset(GENERIC_IOCTL, "dst_buf"),
        "byteCountAt": _offset(GENERIC_IOCTL, "byte_count"),
    }
    constants = "".join(f"\t{name} = {int(value):#x}\n" for name, value in numbers.items())
    messages = {"getAPIRev": encode_request(GetApiRevReq()), "getAPIRevAnswer": api_rev_answer()}
    variables = "".join(f"var {name} = []byte{_braced(data)}\n" for name, data in messages.items())
    return f'package main\n\nconst node = "/dev/azihsm0"\n\nconst (\n{constants})\n\n{variables}'


def _offset(layout: np.dtype[np.void], name: str) -> int:
    assert layout.fields is not None
    return int(layout.fields[name][1])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
