# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""paramiko takes the keys as they are, for a client and for a server; OpenSSH's client and AsyncSSH's server verify."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import asyncssh
import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from libraries.rig import DeviceKey, Keys, Signs
from libraries.ssh import (
    GREETING,
    USER,
    asyncssh_serves,
    line_of,
    new_identity,
    openssh_is_told,
    paramiko_is_told,
    paramiko_serves,
)
from support.waiting import HANG_S


def wrapped(key: DeviceKey) -> paramiko.PKey:
    """paramiko's wrapper around a key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return paramiko.ECDSAKey(vals=(key, key.public_key()))
    return paramiko.RSAKey(key=key)


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa2048"])
def test_client_and_server_over_a_socket_pair(kind: str, keys: Keys, signs: Signs) -> None:
    key = wrapped(keys(kind))
    ours, theirs = socket.socketpair()
    with signs(keys(kind), 2), paramiko_serves(theirs, key, key):
        client = paramiko.Transport(ours)
        client.connect(hostkey=key, username=USER, pkey=key)
        assert paramiko_is_told(client) == GREETING
        client.close()


def test_a_host_key_that_openssh_verifies(key: DeviceKey, signs: Signs, tmp_path: Path) -> None:
    identity = new_identity(tmp_path)
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(HANG_S)
        port = listener.getsockname()[1]
        client = threading.Thread(target=lambda: answers.append(openssh_is_told(port, key, identity)))
        with signs(key):
            client.start()
            connection, _ = listener.accept()
            with paramiko_serves(connection, wrapped(key), paramiko.ECDSAKey(filename=str(identity))):
                client.join(HANG_S)
    assert answers == [GREETING]


def test_a_client_key_that_asyncssh_verifies(key: DeviceKey, signs: Signs) -> None:
    def as_client(port: int) -> bytes:
        client = paramiko.Transport(socket.create_connection(("127.0.0.1", port)))
        try:
            client.connect(username=USER, pkey=wrapped(key))
            return paramiko_is_told(client)
        finally:
            client.close()

    async def both() -> bytes:
        host_key = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
        async with asyncssh_serves(host_key, line_of(key)) as port:
            return await asyncio.to_thread(as_client, port)

    with signs(key):
        assert asyncio.run(both()) == GREETING
