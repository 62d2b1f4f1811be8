# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of a served device: where they are, and where they are not, from their making to the end of the server.

The server is the real one, confined; the client is a process of its own. Every secret is computed from the state
directory and from what the client knows, in every form that gives a key away, and searched for by root in the memory of
both, in a core of the server, in files, log and trace, and in what the control socket answers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from support.memory_index import Index
from support.watched import PLANTED, add_faults, settle, tracing, watched

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root reads the memory of a process that may not be dumped"
)
SHORT: Final = 255
"""Bytes that code for GCM does without storing on the stack what follows from a key."""


def test_keys_of_every_kind_are_in_the_arena_alone_and_gone_with_their_client(
    socket_folder: Path, tmp_path: Path
) -> None:
    with watched(socket_folder, tmp_path / "state") as watch:
        watch.client("provision")
        watch.learn(watch.client("make"))
        lasting, sessions = watch.secrets.device, {"key:smk-0", "key:smk-1"}
        watch.expect(lasting | watch.secrets.partition | sessions | watch.keys())
        watch.client.end()
        settle(watch.server)
        watch.expect(lasting)


@pytest.mark.long
@pytest.mark.parametrize("doorbell", ["trap", "page"])
@pytest.mark.parametrize("faulty", [False, True])
def test_every_stage_of_keys(socket_folder: Path, tmp_path: Path, doorbell: str, faulty: bool) -> None:
    state, trace = tmp_path / "state", tmp_path / "trace.pcapng"
    with (
        watched(socket_folder, state, "--doorbell", doorbell, "--log-level", "debug") as watch,
        tracing(watch.server, trace),
    ):
        client, lasting = watch.client, watch.secrets.device
        client("provision")
        watch.learn(client("tell"))
        partition, sessions = watch.secrets.partition, {"key:smk-0", "key:smk-1"}
        watch.expect(lasting | partition | sessions)
        if faulty:
            add_faults(watch.server)
        watch.learn(client("make", "2048", "3072", "4096"))
        # In use.
        watch.expect(lasting | partition | sessions | watch.keys())
        watch.expect_in_client()
        watch.expect_in_core(tmp_path)
        watch.expect_nothing_swapped()
        # After the PIN was changed, and the identity was used.
        client("change_pin")
        watch.learn(client("attest"))
        watch.expect(lasting | partition | sessions | watch.keys())
        # After deletion of half of the keys, one of each pair.
        deleted = [name for number, name in enumerate(sorted(client("masked"))) if number % 2]
        client("delete", *deleted)
        watch.expect(lasting | partition | sessions | watch.keys(*deleted))
        # After a session ended, and its own keys with it.
        client("close_session")
        own = {name for name in watch.of_key if name.startswith("session-")}
        watch.expect(lasting | partition | {"key:smk-1"} | watch.keys(*deleted, *own))
        # After NSSR, and when all is there again.
        client("reset")
        watch.expect(lasting)
        watch.expect_in_core(tmp_path)
        watch.learn(client("restore"))
        watch.expect(lasting | partition | {"key:smk-1"} | watch.keys(*deleted, *own))
        # After a client that left as it should.
        client("leave")
        settle(watch.server)
        watch.expect(lasting)
        watch.expect_in_client()
        watch.expect_in_texts()
        assert watch.server.stop() == 0
        index = Index(watch.secrets.values)
        assert all(index.in_bytes(line.encode()) <= PLANTED for line in watch.server.errors)
    assert trace.stat().st_size > 0
    assert index.in_bytes(trace.read_bytes()) <= PLANTED
    assert index.in_files([state]) == {("key:device-secret", "device.secret")}
    assert list(socket_folder.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("stage", ["provision", "make 2048", "use"])
def test_a_client_killed_at_any_stage_takes_its_keys_along(socket_folder: Path, tmp_path: Path, stage: str) -> None:
    with watched(socket_folder, tmp_path / "state") as watch:
        watch.client("provision")
        watch.learn(watch.client("make", "2048"))
        process = watch.client.process
        assert process.stdin is not None
        process.stdin.write(stage.encode() + b"\n")
        process.stdin.flush()
        watch.client.end()
        settle(watch.server)
        watch.expect(watch.secrets.device)
        watch.expect_in_core(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("size", [1, SHORT, SHORT + 1, 511, 768, 1024, 4096, 1 << 20])
@pytest.mark.parametrize("aad", [0, SHORT, 2048])
def test_texts_of_every_length_leave_nothing(socket_folder: Path, tmp_path: Path, size: int, aad: int) -> None:
    with watched(socket_folder, tmp_path / "state") as watch:
        watch.client("provision")
        watch.client("make_bulk")
        watch.client("seal", str(size), str(aad))
        watch.learn(watch.client("tell"))
        watch.expect(watch.secrets.device | watch.secrets.partition | {"key:smk-0", "key:smk-1"} | watch.keys())
