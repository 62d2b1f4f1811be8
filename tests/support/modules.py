# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A security module of the tests' own: answers are a function of the request, resets are recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ihsm_abi.fault_actions import Resource
from ihsm_abi.hsm_queue import SessionControl
from ihsm_device.hsm.command import HsmCommand, HsmCompletion, Lane
from support.waiting import HANG_S

SLOW_PREFIX = b"slow"
FAIL_PREFIX = b"fail"
LONG_ANSWER_PREFIX = b"long"
LONG_ANSWER_BYTES = 3584


class ReversingModule:
    """Answers a request with its bytes reversed.

    Requests that start with `slow` wait for `gate` in the slow lane, with `fail` raise, with `long` get the longest
    response there is. Reset calls are kept in `resets`, answers taken back in `rollbacks`.
    """

    serial = 0x1122334455667788
    bulk_table = None
    express = None
    fips_approved = False
    device_iv = False

    def __init__(self) -> None:
        self.resets: list[str] = []
        self.rollbacks: list[bytes] = []
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)

    def execute(self, command: HsmCommand) -> HsmCompletion:
        message = command.message
        if message.startswith(FAIL_PREFIX):
            raise RuntimeError("asked to fail")
        if message.startswith(SLOW_PREFIX):
            gate = self.gate  # read before anyone who waits for `started` can put another in its place
            self.started.release()
            assert gate.wait(HANG_S)
        flags = SessionControl.of(kind=command.kind, id_valid=command.id_valid)
        answer = (
            message[::-1].ljust(LONG_ANSWER_BYTES, b".") if message.startswith(LONG_ANSWER_PREFIX) else message[::-1]
        )
        return HsmCompletion(answer, flags, command.session_id, rollback=lambda: self.rollbacks.append(message))

    def flush(self, command: HsmCommand) -> HsmCompletion:
        flags = SessionControl.of(kind=command.kind, id_valid=1, session_closed=1)
        return HsmCompletion(b"", flags, command.session_id)

    def lane(self, message: bytes) -> Lane:
        return Lane.SLOW if message.startswith(SLOW_PREFIX) else Lane.FAST

    def on_shortage(self, is_short_of: Callable[[Resource], bool]) -> None:
        """There is always room."""

    def nssr(self) -> None:
        self.resets.append("nssr")

    def disable(self) -> None:
        self.resets.append("disable")

    def client_lost(self) -> None:
        self.resets.append("client-lost")

    def status(self) -> dict[str, Any]:
        return {"resets": list(self.resets)}
