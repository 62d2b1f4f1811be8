# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A machine with the driver model and a device, on which a program opens the node and sends one command to the HSM."""

import numpy as np

from ihsm.embedded import EmbeddedDevice
from ihsm.uri import open_function
from ihsm_abi.ddi import GetApiRevReq, GetApiRevResp, decode_response, encode_request
from ihsm_abi.uapi import GENERIC_IOCTL, Ioctl
from ihsm_kmod.machine import Machine, StillClock

request = np.frombuffer(bytearray(encode_request(GetApiRevReq())), np.uint8)
response = np.zeros(4096, np.uint8)
command = np.zeros(1, GENERIC_IOCTL)
command["hdr"]["szioctldata"] = command.nbytes
command["src_buf"], command["src_length"] = request.ctypes.data, request.nbytes
command["dst_buf"], command["dst_length"] = response.ctypes.data, response.nbytes

with (
    EmbeddedDevice() as device,  # an `ihsm serve`
    open_function(f"vfio-user:{device.socket_path}") as function,
    Machine(function, clock=StillClock()) as machine,  # boots, loads the driver, plugs the function in
):
    app = machine.process("app")
    fd = app.open("/dev/azihsm0")
    app.ioctl(fd, Ioctl.GENERIC_SESSION, command)
    app.close(fd)

print(decode_response(response[: command["byte_count"][0]].tobytes(), GetApiRevResp))
print(machine.kernel.dmesg())
