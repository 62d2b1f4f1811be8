# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AsyncSSH with `ihsm.adapters.asyncssh`, client and server; paramiko's server and OpenSSH's client verify."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from ihsm import Hsm
from ihsm.adapters.asyncssh import HsmKeyPair
from libraries.rig import DeviceKey, Keys, Signs, run_example
from libraries.ssh import (
    GREETING,
    USER,
    asyncssh_serves,
    new_identity,
    openssh_is_told,
    paramiko_public,
    paramiko_serves,
)
from support.waiting import HANG_S

KINDS = ["p256", "p384", "p521", "rsa2048"]
OPTIONS: dict[str, Any] = {"known_hosts": None, "config": None}


@contextlib.contextmanager
def paramiko_listens(allowed: DeviceKey) -> Iterator[tuple[int, Callable[[], Any]]]:
    """A port, and what waits for a client there and serves it; paramiko has a host key of its own."""
    host_key = paramiko.ECDSAKey.generate()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as serving:
        listener.settimeout(HANG_S)

        def serve() -> None:
            connection, _ = listener.accept()
            serving.enter_context(paramiko_serves(connection, host_key, paramiko_public(allowed)))

        yield listener.getsockname()[1], serve


async def told(connecting: Awaitable[asyncssh.SSHClientConnection]) -> bytes:
    """What a client of AsyncSSH's is told."""
    async with await connecting as connection:
        return str((await connection.run("greet")).stdout).encode()


async def client_and_server(connecting: Any, serve: Callable[[], None]) -> bytes:
    """What the client is told by a server in a thread."""
    serving = asyncio.create_task(asyncio.to_thread(serve))
    answer = await asyncio.wait_for(told(connecting), HANG_S)
    await serving
    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_key_that_paramiko_verifies(kind: str, keys: Keys, signs: Signs) -> None:
    key = keys(kind)
    with signs(key), paramiko_listens(key) as (port, serve):
        connecting = asyncssh.connect("127.0.0.1", port, username=USER, client_keys=[HsmKeyPair(key)], **OPTIONS)
        assert asyncio.run(client_and_server(connecting, serve)) == GREETING


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_key_that_openssh_verifies(kind: str, keys: Keys, signs: Signs, tmp_path: Path) -> None:
    key = keys(kind)
    identity = new_identity(tmp_path)

    async def both() -> bytes:
        async with asyncssh_serves(HsmKeyPair(key), identity.with_suffix(".pub").read_bytes()) as port:
            return await asyncio.to_thread(openssh_is_told, port, key, identity)

    with signs(key):
        assert asyncio.run(both()) == GREETING


def test_no_signature_with_sha1_is_offered(keys: Keys) -> None:
    assert HsmKeyPair(keys("rsa2048")).sig_algorithms == [b"rsa-sha2-256", b"rsa-sha2-512"]


def test_the_example(hsm: Hsm, signs: Signs) -> None:
    key = hsm["web"]
    with signs(key), paramiko_listens(key) as (port, serve):

        async def example() -> bytes:
            names = run_example("AsyncSSH", hsm=hsm, host="127.0.0.1", user=USER, options=OPTIONS | {"port": port})
            return await client_and_server(names["connecting"], serve)

        assert asyncio.run(example()) == GREETING
