# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A requester of SPDM, written from the standards over pyca: it believes nothing and checks everything it is told."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm_abi.spdm import algorithms, chain, codes, messages, opaque
from ihsm_abi.spdm.algorithms import BaseHash
from ihsm_abi.spdm.layout import Message, Sizes
from ihsm_abi.spdm.measurements import MeasurementBlock, decode_record

CAPABILITIES: Final = codes.Capability.ENCRYPT | codes.Capability.MAC | codes.Capability.KEY_EX
TABLES: Final = (
    algorithms.AlgorithmTable.of(algorithms.TableType.DHE, algorithms.Dhe.SECP384R1),
    algorithms.AlgorithmTable.of(algorithms.TableType.AEAD, algorithms.Aead.AES_256_GCM),
    algorithms.AlgorithmTable.of(algorithms.TableType.KEY_SCHEDULE, algorithms.KeySchedule.SPDM),
)
HASHES: Final = {
    BaseHash.SHA256: hashes.SHA256(),
    BaseHash.SHA384: hashes.SHA384(),
    BaseHash.SHA512: hashes.SHA512(),
}
IN_SESSION: Final = (messages.Digests, messages.Certificate, messages.Measurements)
"""Answers that are asked for inside of a session if there is one."""
PREFIX: Final = b"dmtf-spdm-v1.2.*" * 4
M = TypeVar("M", bound=Message)


class ErrorAnswerError(AssertionError):
    """The device answered ERROR."""

    def __init__(self, version: int, code: int, data: int) -> None:
        super().__init__(f"ERROR {code:#x} {data:#x}")
        self.version, self.code, self.data = version, code, data


def expect(answer: bytes, layout: type[M], sizes: Sizes, padding: int = 0) -> tuple[M, int]:
    """The answer, or what went wrong."""
    if answer[1] == codes.ResponseCode.ERROR:
        raise ErrorAnswerError(answer[0], answer[2], answer[3])
    return layout.decode(answer, sizes, padding=padding)


@dataclass
class Keys:
    """Of one direction."""

    secret: bytes
    key: bytes
    iv: bytes
    sequence: int = 0

    def nonce(self) -> bytes:
        number = self.sequence.to_bytes(12, "little")
        self.sequence += 1
        return bytes(a ^ b for a, b in zip(self.iv, number, strict=True))


@dataclass
class Requester:
    """Talks to a responder through two functions: one for messages, one for records."""

    send: Callable[[bytes], bytes]
    send_record: Callable[[bytes], bytes | None]
    base_hash: BaseHash = BaseHash.SHA384
    padding: int = 0
    """Bytes that may follow an answer."""
    alter: Callable[[bytes], bytes] = bytes
    """What is sent, and goes into transcripts, in place of a request."""
    negotiation: bytes = b""
    read: bytes = b""
    """Digests and certificates, since the last CHALLENGE."""
    certificates: tuple[bytes, ...] = ()
    chain: bytes = b""
    session: int = 0
    handshake: bytes = b""
    handshake_secret: bytes = b""
    request: Keys | None = None
    response: Keys | None = None
    secrets: dict[str, bytes] = field(default_factory=dict)
    """Of the last session, by what the standard calls them."""
    measured: dict[bool, bytes] = field(default_factory=lambda: {False: b"", True: b""})

    @property
    def sizes(self) -> Sizes:
        size = HASHES[self.base_hash].digest_size
        return Sizes(hash=size, verify_data=size)

    def hash(self, data: bytes) -> bytes:
        return hashlib.new(HASHES[self.base_hash].name, data).digest()

    def hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, HASHES[self.base_hash].name)

    def exchange(self, request: bytes, layout: type[M], sizes: Sizes | None = None) -> tuple[M, bytes]:
        """The answer, decoded and as it is, without padding."""
        answer = self.secured(request) if self.established and layout in IN_SESSION else self.send(request)
        decoded, size = expect(answer, layout, sizes or self.sizes, self.padding)
        return decoded, answer[:size]

    def encoded(self, request: Message) -> bytes:
        return self.alter(request.encode())

    # -- negotiation ----------------------------------------------------------------------------------------------

    def version(self) -> messages.Version:
        request = self.encoded(messages.GetVersion())
        decoded, answer = self.exchange(request, messages.Version)
        self.negotiation = request + answer
        self.read, self.measured = b"", {False: b"", True: b""}
        return decoded

    def capabilities(
        self, flags: int = CAPABILITIES, size: int = 4096, message_size: int | None = None
    ) -> messages.Capabilities:
        request = self.encoded(
            messages.GetCapabilities(
                ct_exponent=20, flags=flags, data_transfer_size=size, max_message_size=message_size or size
            )
        )
        decoded, answer = self.exchange(request, messages.Capabilities)
        self.negotiation += request + answer
        return decoded

    def algorithms(self, **changes: object) -> algorithms.Algorithms:
        request = self.encoded(
            algorithms.NegotiateAlgorithms.of(
                **{"base_hash": self.base_hash, "tables": TABLES, **changes}  # type: ignore[arg-type]
            )
        )
        decoded, answer = self.exchange(request, algorithms.Algorithms)
        self.negotiation += request + answer
        self.base_hash = BaseHash(decoded.base_hash)
        return decoded

    def negotiate(self) -> None:
        self.version()
        self.capabilities()
        self.algorithms()

    # -- identity -------------------------------------------------------------------------------------------------

    def digests(self) -> bytes:
        decoded = self.ask(messages.GetDigests(), messages.Digests)
        assert decoded.slots == 1
        return decoded.digests[0]

    def read_chain(self, portion: int = 0x400) -> tuple[bytes, ...]:
        data = b""
        while True:
            part = self.ask(messages.GetCertificate(slot=0, offset=len(data), length=portion), messages.Certificate)
            data += part.portion
            if part.remainder_length == 0:
                break
        self.chain = data
        root_hash, self.certificates = chain.decode_chain(data, self.sizes.hash)
        assert root_hash == self.hash(self.certificates[0])
        return self.certificates

    def ask(self, request: Message, layout: type[M]) -> M:
        if isinstance(request, messages.GetDigests):
            self.read = b""
        encoded = self.encoded(request)
        decoded, answer = self.exchange(encoded, layout)
        if not self.established:
            self.read += encoded + answer
        return decoded

    @property
    def established(self) -> bool:
        return self.request is not None

    def public_key(self) -> ec.EllipticCurvePublicKey:
        key = x509.load_der_x509_certificate(self.certificates[-1]).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    def verify(self, context: bytes, transcript: bytes, signature: bytes) -> None:
        half = len(signature) // 2
        encoded = utils.encode_dss_signature(
            int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        )
        signed = PREFIX + context.rjust(36, b"\0") + self.hash(transcript)
        self.public_key().verify(encoded, signed, ec.ECDSA(HASHES[self.base_hash]))

    def challenge(self, summary: int = 0, nonce: bytes | None = None) -> messages.ChallengeAuth:
        request = self.encoded(messages.Challenge(slot=0, summary_type=summary, nonce=nonce or os.urandom(32)))
        sizes = Sizes(hash=self.sizes.hash, summary=self.sizes.hash if summary else 0)
        decoded, answer = self.exchange(request, messages.ChallengeAuth, sizes)
        assert decoded.chain_hash == self.hash(self.chain)
        self.verify(
            b"responder-challenge_auth signing",
            self.negotiation + self.read + request + answer[:-96],
            decoded.signature,
        )
        self.read = b""
        return decoded

    # -- measurements ---------------------------------------------------------------------------------------------

    def measure(self, operation: int, *, raw: bool = False, signed: bool = False) -> messages.Measurements:
        attributes = (codes.MeasurementAttributes.RAW if raw else 0) | (1 if signed else 0)
        nonce = os.urandom(32) if signed else b""
        request = self.encoded(messages.GetMeasurements(attributes=attributes, operation=operation, nonce=nonce))
        decoded, answer = self.exchange(request, messages.Measurements, Sizes(signature=96 if signed else 0))
        log = self.measured[self.established] or self.negotiation
        log += request + answer[: len(answer) - len(decoded.signature)]
        if signed:
            self.verify(b"responder-measurements signing", log, decoded.signature)
            log = b""
        self.measured[self.established] = log
        return decoded

    def blocks(self, operation: int = 0xFF, *, raw: bool = False) -> tuple[MeasurementBlock, ...]:
        answer = self.measure(operation, raw=raw, signed=True)
        return decode_record(answer.record, answer.block_count)

    # -- session --------------------------------------------------------------------------------------------------

    def expand(self, secret: bytes, length: int, label: bytes, context: bytes = b"") -> bytes:
        info = length.to_bytes(2, "little") + b"spdm1.2 " + label + context
        return HKDFExpand(HASHES[self.base_hash], length, info).derive(secret)

    def keys(self, name: str, secret: bytes) -> Keys:
        keys = Keys(secret, self.expand(secret, 32, b"key"), self.expand(secret, 12, b"iv"))
        self.secrets |= {f"{name} secret": secret, f"{name} key": keys.key, f"{name} iv": keys.iv}
        return keys

    def key_exchange(self, summary: int = 0, data: bytes | None = None) -> messages.KeyExchangeRsp:
        private = ec.generate_private_key(ec.SECP384R1())
        point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        request = self.encoded(
            messages.KeyExchange(
                summary_type=summary,
                slot=0,
                session_id=0xABCD,
                random=os.urandom(32),
                exchange=point,
                opaque=opaque.supported_versions() if data is None else data,
            )
        )
        size = self.sizes.hash
        sizes = Sizes(hash=size, verify_data=size, summary=size if summary else 0)
        decoded, answer = self.exchange(request, messages.KeyExchangeRsp, sizes)
        assert opaque.read_selected_version(decoded.opaque) == opaque.SECURED_VERSION_1_1
        handshake = self.negotiation + self.hash(self.chain) + request + answer[: -96 - size]
        self.verify(b"responder-key_exchange_rsp signing", handshake, decoded.signature)
        handshake += decoded.signature
        peer = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), b"\4" + decoded.exchange)
        shared = private.exchange(ec.ECDH(), peer)
        self.handshake_secret = self.hmac(bytes(size), shared)
        self.secrets = {"shared": shared, "handshake": self.handshake_secret}
        th1 = self.hash(handshake)
        self.request = self.keys("request handshake", self.expand(self.handshake_secret, size, b"req hs data", th1))
        self.response = self.keys("response handshake", self.expand(self.handshake_secret, size, b"rsp hs data", th1))
        finished = self.expand(self.response.secret, size, b"finished")
        self.secrets["response finished"] = finished
        self.secrets["request finished"] = self.expand(self.request.secret, size, b"finished")
        assert decoded.verify_data == self.hmac(finished, th1)
        self.handshake = handshake + decoded.verify_data
        self.session = decoded.session_id << 16 | 0xABCD
        self.measured[True] = b""
        return decoded

    def finish_request(self) -> bytes:
        """FINISH with the right proof."""
        assert self.request is not None
        head = self.alter(bytes([0x12, 0xE5, 0, 0]))
        finished = self.expand(self.request.secret, self.sizes.hash, b"finished")
        return head + self.hmac(finished, self.hash(self.handshake + head))

    def finish(self) -> None:
        request = self.finish_request()
        answer = self.secured(request)
        expect(answer, messages.FinishRsp, self.sizes)
        size = self.sizes.hash
        th2 = self.hash(self.handshake + request + answer)
        salt = self.expand(self.handshake_secret, size, b"derived")
        master = self.hmac(salt, bytes(size))
        self.secrets |= {"salt": salt, "master": master}
        self.request = self.keys("request data", self.expand(master, size, b"req app data", th2))
        self.response = self.keys("response data", self.expand(master, size, b"rsp app data", th2))

    def open_session(self, summary: int = 0) -> None:
        self.key_exchange(summary)
        self.finish()

    def end_session(self) -> None:
        expect(self.secured(self.encoded(messages.EndSession())), messages.EndSessionAck, self.sizes)
        self.request = self.response = None

    def seal(self, message: bytes) -> bytes:
        """The next record."""
        assert self.request is not None
        plain = len(message).to_bytes(2, "little") + message
        header = self.session.to_bytes(4, "little") + (len(plain) + 16).to_bytes(2, "little")
        return header + AESGCM(self.request.key).encrypt(self.request.nonce(), plain, header)

    def open(self, record: bytes | None) -> bytes:
        """The message in the device's next record."""
        assert record is not None
        assert self.response is not None
        header, sealed = record[:6], record[6:]
        assert header == self.session.to_bytes(4, "little") + len(sealed).to_bytes(2, "little")
        plain = AESGCM(self.response.key).decrypt(self.response.nonce(), sealed, header)
        assert int.from_bytes(plain[:2], "little") == len(plain) - 2
        return plain[2:]

    def secured(self, message: bytes) -> bytes:
        """A message and its answer, in records."""
        return self.open(self.send_record(self.seal(message)))
