# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attestation of a served, confined device over its sockets: clients that come and go, resets, two functions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.bus.doe import Mailbox
from ihsm.errors import MailboxError
from ihsm_abi.spdm import manifest
from support.process import ServeProcess, serve
from support.spdm_mailbox import attest, requester_of
from support.waiting import HANG_S


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("sockets")
    with serve("--socket", str(folder / "s"), "--count", "2", "--profile", "firmware") as process:
        yield process


def test_everything_once(server: ServeProcess) -> None:
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
        requester = requester_of(Mailbox(function))
        attest(requester)
        blocks = {
            block.index: block.value for block in (requester.blocks(index, raw=True)[0] for index in range(1, 37))
        }
        requester.end_session()
    files = manifest.measure(manifest.installed())
    for block in (manifest.TRUST_BLOCK, manifest.CONTROL_BLOCK, manifest.FAST_BLOCK):
        assert blocks[block][5:] == manifest.image_digest(files, block)
    assert blocks[manifest.FILES_BLOCK] == manifest.short_digests(files)
    configuration = json.loads(blocks[33])
    assert configuration["profile"]["name"] == blocks[34].decode() == "firmware"
    assert configuration["versions"]["crypto"].startswith("AWS-LC ")


def test_a_client_that_is_killed_leaves_nothing_to_the_next(server: ServeProcess) -> None:
    program = (
        "import sys; from ihsm.bus import VfioUserFunction; from ihsm.bus.doe import Mailbox;"
        "from support.spdm_mailbox import attest, requester_of;"
        "function = VfioUserFunction(sys.argv[1]); requester = requester_of(Mailbox(function)); attest(requester);"
        "print(requester.seal(bytes.fromhex('12810000')).hex(), flush=True); sys.stdin.read()"
    )
    tests = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(server.paths[0])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tests,
    ) as client:
        assert client.stdout is not None
        record = bytes.fromhex(client.stdout.readline())
        client.kill()
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
        requester = requester_of(Mailbox(function))
        assert requester.send(bytes.fromhex("12810000"))[:4] == bytes.fromhex("107f0400")
        with pytest.raises(MailboxError):
            requester.send_record(record)
        attest(requester)


def test_a_reset_in_the_middle_of_a_handshake(server: ServeProcess) -> None:
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
        requester = requester_of(Mailbox(function))
        requester.negotiate()
        requester.read_chain()
        requester.key_exchange()
        finish = requester.seal(requester.finish_request())
        function.reset()
        with pytest.raises(MailboxError):
            requester.send_record(finish)
        attest(requester)


def test_two_functions_are_strangers(server: ServeProcess) -> None:
    with (
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as first,
        VfioUserFunction(server.paths[1], timeout_s=HANG_S) as second,
    ):
        one, other = requester_of(Mailbox(first)), requester_of(Mailbox(second))
        attest(one)
        attest(other)
        assert one.certificates == other.certificates
        with pytest.raises(MailboxError):
            other.send_record(one.seal(bytes.fromhex("12810000")))
        other.blocks()
        first.reset()
        other.blocks()
        attest(one)
