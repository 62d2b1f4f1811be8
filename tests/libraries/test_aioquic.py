# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""aioquic serves QUIC with the keys as they are: TLS 1.3, whose CertificateVerify (RFC 8446 §4.4.3) the device signs.

The client is aioquic too, and trusts a CA that was made without it or the device; OpenSSL verifies what it was sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aioquic import tls
from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.tls import KeySchedule
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from libraries.judges import openssl_verifies
from libraries.rig import DAY, NOW, DeviceKey, Keys, Signs, name_of
from support.waiting import HANG_S

ROOT = ec.generate_private_key(ec.SECP256R1())


def certificate(name: str, public_key: object, *, ca: bool) -> x509.Certificate:
    """One that the root's software key signs."""
    return (
        x509.CertificateBuilder()
        .subject_name(name_of(name))
        .issuer_name(name_of("root"))
        .public_key(public_key)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(ROOT, hashes.SHA256())
    )


async def exchange(key: DeviceKey, server_key: object) -> tuple[bytes, x509.Certificate]:
    """A connection over loopback: what the server answers, and the certificate that the client was shown."""
    leaf = certificate("host.test", server_key, ca=False)
    answering: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.write_eof()

    server = await serve(
        "127.0.0.1",
        0,
        configuration=QuicConfiguration(is_client=False, certificate=leaf, private_key=key),
        stream_handler=lambda *stream: answering.append(asyncio.ensure_future(answer(*stream))),
    )
    client = QuicConfiguration(is_client=True, server_name="host.test", verify_mode=ssl.CERT_REQUIRED)
    client.load_verify_locations(cadata=certificate("root", ROOT.public_key(), ca=True).public_bytes(Encoding.PEM))
    port = server._transport.get_extra_info("sockname")[1]
    try:
        async with connect("127.0.0.1", port, configuration=client) as connection:
            assert isinstance(connection, QuicConnectionProtocol)
            reader, writer = await connection.create_stream()
            writer.write(b"over quic")
            writer.write_eof()
            return await reader.read(), connection._quic.tls._peer_certificate
    finally:
        server.close()


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """What was signed and the signature of each CertificateVerify that a client receives."""
    seen: list[tuple[bytes, bytes]] = []
    data_of, pull = KeySchedule.certificate_verify_data, tls.pull_certificate_verify
    signed: list[bytes] = []

    def noted(schedule: KeySchedule, context: bytes) -> bytes:
        signed.append(data_of(schedule, context))
        return signed[-1]

    def pulled(buffer: Any) -> Any:
        message = pull(buffer)
        seen.append((signed[-1], message.signature))
        return message

    monkeypatch.setattr(KeySchedule, "certificate_verify_data", noted)
    monkeypatch.setattr(tls, "pull_certificate_verify", pulled)
    return seen


PSS = ("-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32")


@pytest.mark.parametrize(("kind", "options"), [("p256", ("-sha256",)), ("p384", ("-sha384",)), ("rsa2048", PSS)])
def test_a_server_proves_that_it_has_the_key(
    kind: str, options: Sequence[str], keys: Keys, signs: Signs, proofs: list[tuple[bytes, bytes]], tmp_path: Path
) -> None:
    key = keys(kind)
    with signs(key):
        answer, shown = asyncio.run(asyncio.wait_for(exchange(key, key.public_key()), HANG_S))
    assert answer == b"OVER QUIC"
    assert shown.public_key() == key.public_key()
    ((signed, signature),) = proofs
    assert signed.startswith(b" " * 64 + b"TLS 1.3, server CertificateVerify\0")
    openssl_verifies(tmp_path, key.public_key(), signature, signed, *options)


def test_a_client_refuses_a_server_whose_certificate_has_another_key(keys: Keys, signs: Signs) -> None:
    with signs(keys("p256")), pytest.raises(ConnectionError):
        asyncio.run(asyncio.wait_for(exchange(keys("p256"), ROOT.public_key()), HANG_S))
