# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The other sides of SSH connections: OpenSSH's client, a server of paramiko's, one of AsyncSSH's."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import asyncssh
import paramiko
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from libraries.judges import run
from libraries.rig import DeviceKey
from support.waiting import HANG_S

USER: Final = "somebody"
GREETING: Final = b"from the server"


def line_of(key: DeviceKey) -> bytes:
    """The public key as a line of authorized_keys."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def paramiko_public(key: DeviceKey) -> paramiko.PKey:
    """The public key, as paramiko reads it from a line."""
    kind, blob = line_of(key).split()[:2]
    return paramiko.PKey.from_type_string(kind.decode(), base64.b64decode(blob))


def new_identity(folder: Path) -> Path:
    """A key of OpenSSH's own."""
    run("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", folder / "id")
    return folder / "id"


def openssh_is_told(port: int, host_key: DeviceKey, identity: Path) -> bytes:
    """What OpenSSH's client prints, which takes no other host key than this one."""
    known = identity.with_name("known_hosts")
    known.write_bytes(b"known " + line_of(host_key) + b"\n")
    options = {
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": "known",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return run("ssh", "-F", "none", "-p", str(port), "-i", identity, *words, f"{USER}@127.0.0.1", "greet")


class Gate(paramiko.ServerInterface):
    """Lets in whoever has one key."""

    def __init__(self, allowed: paramiko.PKey) -> None:
        self.allowed = allowed
        self.asked = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        is_it = username == USER and key.asbytes() == self.allowed.asbytes()
        return paramiko.AUTH_SUCCESSFUL if is_it else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.set()
        return True


@contextlib.contextmanager
def paramiko_serves(connection: socket.socket, host_key: paramiko.PKey, allowed: paramiko.PKey) -> Iterator[None]:
    """paramiko on one connection, with the greeting for the first command."""
    gate = Gate(allowed)
    transport = paramiko.Transport(connection)
    transport.add_server_key(host_key)

    def answer() -> None:
        transport.start_server(server=gate)
        channel = transport.accept(HANG_S)
        if channel is not None and gate.asked.wait(HANG_S):
            channel.sendall(GREETING)
            channel.send_exit_status(0)
            with contextlib.suppress(EOFError):  # a client that has seen the end may be gone before this is sent
                channel.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
        thread.join(HANG_S)
    finally:
        transport.close()


def paramiko_is_told(transport: paramiko.Transport) -> bytes:
    """What a client of paramiko's is told."""
    channel = transport.open_session(timeout=HANG_S)
    channel.exec_command("greet")
    return channel.makefile("rb").read()


class Doorman(asyncssh.SSHServer):
    """Lets in whoever has one key."""

    def __init__(self, allowed: asyncssh.SSHKey) -> None:
        self.allowed = allowed

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USER and key.public_data == self.allowed.public_data


@contextlib.asynccontextmanager
async def asyncssh_serves(host_key: Any, allowed: bytes) -> AsyncIterator[int]:
    """AsyncSSH with the greeting for every command; the port. `allowed`: a line of authorized_keys."""

    def greet(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write(GREETING.decode())
        process.exit(0)

    server = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: Doorman(asyncssh.import_public_key(allowed)),
        server_host_keys=[host_key],
        process_factory=greet,
    )
    async with server:
        yield server.get_port()
