# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A program that makes ioctls, for `ihsm bench kmod`: `python -m ihsm.bench.ioctl_load NODE`, under `ihsm kmod run`.

Orders come a line each on standard input, and each is answered by a line of JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from typing import Final

import numpy as np

from ihsm_abi.ddi import GetApiRevReq, encode_request
from ihsm_abi.uapi import GENERIC_IOCTL, Ioctl

RESPONSE_BYTES: Final = 8192


class Load:
    """An open node, and one session-less command to send again and again (spec 02 A.6)."""

    def __init__(self, node: str) -> None:
        """Open it."""
        self._node = node
        self._fd = os.open(node, os.O_RDWR)
        self._request = np.frombuffer(bytearray(encode_request(GetApiRevReq())), np.uint8)
        self._response = np.zeros(RESPONSE_BYTES, np.uint8)
        self._command = np.zeros(1, GENERIC_IOCTL)
        self._command["hdr"]["szioctldata"] = self._command.nbytes
        self._command["src_buf"], self._command["src_length"] = self._request.ctypes.data, self._request.nbytes
        self._command["dst_buf"], self._command["dst_length"] = self._response.ctypes.data, self._response.nbytes
        self._bytes = bytearray(self._command.tobytes())

    def run(self, seconds: float) -> dict[str, float]:
        """Make ioctls for so long; how many, and wall and CPU time in seconds."""
        count = 0
        cpu, start = time.process_time(), time.perf_counter()
        while (now := time.perf_counter()) < start + seconds:
            fcntl.ioctl(self._fd, Ioctl.GENERIC_SESSION, self._bytes)
            count += 1
        return {"operations": count, "wall_s": now - start, "cpu_s": time.process_time() - cpu}

    def open_and_close(self, count: int) -> dict[str, float]:
        """Open the node and close it, so often; one open and ioctl more, after which the last close has been seen."""
        for _ in range(count + 1):
            os.close(os.open(self._node, os.O_RDWR))
        fcntl.ioctl(self._fd, Ioctl.GENERIC_SESSION, self._bytes)
        return {"operations": count}


def main(node: str) -> None:
    """Do what is ordered, until there are no more orders."""
    load = Load(node)
    for line in sys.stdin:
        order, number = line.split()
        print(json.dumps(load.run(float(number)) if order == "run" else load.open_and_close(int(number))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
