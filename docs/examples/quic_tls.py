#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 over QUIC, by a server whose key is in the HSM. Usage: quic_tls.py [LABEL]; needs aioquic

Makes the key LABEL ("localhost"), unless the store has it (a store is needed: ihsm init), and a certificate for it,
which is kept with the key. The server proves with every connection that it has the key: CertificateVerify (RFC 8446
§4.4.3) is signed in the device. A client in the same program trusts that certificate alone, and gets an answer.
"""

import asyncio
import datetime
import ssl
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm import Hsm
from ihsm.api import EcPrivateKey

HOST = "localhost"
PROTOCOLS = ["upper"]
DAY = datetime.timedelta(days=1)


def self_signed(key: EcPrivateKey) -> x509.Certificate:
    """A certificate for this host, signed by its own key in the device."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 90 * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's side of a stream: what came, in capitals."""
    writer.write((await reader.read()).upper())
    writer.write_eof()


async def ask(port: int, trusted: x509.Certificate, question: bytes) -> bytes:
    """The client's side, which verifies the server's certificate and signature."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=PROTOCOLS, verify_mode=ssl.CERT_REQUIRED)
    configuration.server_name = HOST
    configuration.load_verify_locations(cadata=trusted.public_bytes(Encoding.PEM))
    async with connect("127.0.0.1", port, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        writer.write(question)
        writer.write_eof()
        return await reader.read()


async def main(key: EcPrivateKey, certificate: x509.Certificate) -> None:
    """Serve on a free port, and connect to it."""
    streams = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        streams.add(asyncio.ensure_future(answer(reader, writer)))

    configuration = QuicConfiguration(is_client=False, alpn_protocols=PROTOCOLS)
    configuration.certificate, configuration.private_key = certificate, key  # as if the key were a plain one
    server = await serve("127.0.0.1", 0, configuration=configuration, stream_handler=accept)
    port = server._transport.get_extra_info("sockname")[1]  # aioquic has no public name for it
    try:
        print((await ask(port, certificate, b"signed in the hsm")).decode())
    finally:
        server.close()


label = sys.argv[1] if len(sys.argv) > 1 else HOST
with Hsm.open() as hsm:
    key = hsm[label] if label in hsm else hsm.generate(label, "p256", usage="sign")
    if not key.facts.certificates:
        hsm.set_certificates(label, [self_signed(key).public_bytes(Encoding.DER)])
        key = hsm[label]
    asyncio.run(main(key, x509.load_der_x509_certificate(key.facts.certificates[0])))
