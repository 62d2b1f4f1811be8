# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attesting a served device after others were cut off in the middle of a handshake, and two functions at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ihsm.attest import Connection, Evidence, Session, attest, session
from ihsm.bus import Mailbox, VfioUserFunction
from ihsm.embedded import EmbeddedDevice
from ihsm.trace.replay import function_level_reset
from support.waiting import HANG_S

CUT_OFF = """
import sys
from ihsm.attest import Connection, Session, session
from ihsm.bus import Mailbox, VfioUserFunction
def stand_still(*arguments):
    print("handshake", flush=True)
    sys.stdin.read()
connection = Connection(Mailbox(VfioUserFunction(sys.argv[1])), float(sys.argv[2]))
connection.negotiate()
connection.read_chain()
session._finish = stand_still
Session.open(connection)
"""


class LeftError(Exception):
    """Somebody leaves in the middle."""


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice(count=2) as device:
        yield device


def attested(device: EmbeddedDevice, number: int = 0) -> Evidence:
    with VfioUserFunction(device.socket_paths[number], timeout_s=HANG_S, wait_s=HANG_S) as function:
        return attest(Mailbox(function), timeout_s=HANG_S)


def test_after_a_client_that_was_killed_in_a_handshake(device: EmbeddedDevice) -> None:
    before = attested(device)
    program = [sys.executable, "-c", CUT_OFF, str(device.socket_path), str(HANG_S)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "handshake\n"
        client.kill()
    assert attested(device).blocks == before.blocks


def test_after_a_reset_in_a_handshake(device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*arguments: object) -> bytes:
        raise LeftError

    with VfioUserFunction(device.socket_path, timeout_s=HANG_S, wait_s=HANG_S) as function:
        connection = Connection(Mailbox(function), HANG_S)
        connection.negotiate()
        connection.read_chain()
        with monkeypatch.context() as patched:
            patched.setattr(session, "_finish", leave)
            with pytest.raises(LeftError):
                Session.open(connection)
        function_level_reset(function)
        assert len(attest(Mailbox(function), timeout_s=HANG_S).blocks) == 36


def test_two_functions_at_once(device: EmbeddedDevice) -> None:
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda number: attested(device, number), range(2))
    assert one.blocks == other.blocks
    assert one.certificates == other.certificates
    assert one.nonce != other.nonce
