# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""SPDM 1.2 outside of sessions (DMTF DSP0274 1.2): versions, algorithms, chain, challenge, measurements."""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, Protocol, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from ihsm.attest.errors import EvidenceError, SpdmRefusedError
from ihsm.ddi.certificates import parse_certificate
from ihsm.ddi.errors import CertificateChainError
from ihsm.ddi.path_validation import parsing
from ihsm_abi.doe import OBJECT_SPDM, PCI_SIG
from ihsm_abi.spdm.algorithms import (
    DMTF_MEASUREMENTS,
    Aead,
    Algorithms,
    AlgorithmTable,
    BaseAsym,
    BaseHash,
    Dhe,
    KeySchedule,
    MeasurementHash,
    NegotiateAlgorithms,
    OpaqueFormat,
    TableType,
)
from ihsm_abi.spdm.chain import SLOT, decode_chain
from ihsm_abi.spdm.codes import (
    CT_EXPONENT,
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    NONCE_BYTES,
    VERSION_1_0,
    VERSION_1_2,
    Capability,
    MeasurementAttributes,
    ResponseCode,
    SummaryType,
    begins_chain_anew,
)
from ihsm_abi.spdm.layout import Message, Sizes, SpdmFormatError
from ihsm_abi.spdm.measurements import MeasurementBlock, decode_record
from ihsm_abi.spdm.messages import (
    VERSION_ENTRY_1_2,
    VERSION_ENTRY_MASK,
    Capabilities,
    Certificate,
    Challenge,
    ChallengeAuth,
    Digests,
    Error,
    GetCapabilities,
    GetCertificate,
    GetDigests,
    GetMeasurements,
    GetVersion,
    Measurements,
    Version,
)
from ihsm_abi.spdm.signing import SigningContext, signed_message

M = TypeVar("M", bound=Message)

TIMEOUT_S: Final = 5.0
"""Longest wait for one answer, in seconds."""
HASH: Final = hashlib.sha384
HASH_BYTES: Final = 48
SIZES: Final = Sizes(hash=HASH_BYTES)
REQUESTER_CAPABILITIES: Final = Capability.ENCRYPT | Capability.MAC | Capability.KEY_EX
NEEDED: Final = Capability.CERT | Capability.CHAL | Capability.MEAS_SIGNATURE | REQUESTER_CAPABILITIES
"""What a device must be able to do."""
TABLES: Final = (
    AlgorithmTable.of(TableType.DHE, Dhe.SECP384R1),
    AlgorithmTable.of(TableType.AEAD, Aead.AES_256_GCM),
    AlgorithmTable.of(TableType.KEY_SCHEDULE, KeySchedule.SPDM),
)
_MAX_CHAIN_BYTES: Final = 0xFFFF


class Exchange(Protocol):
    """What carries data objects: `ihsm.bus.Mailbox`."""

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = ...) -> bytes:
        """Send an object and wait for its answer."""

    def discover(self, timeout_s: float = ...) -> list[tuple[int, int]]:
        """Vendor and type of every object that is taken."""


class Signed(NamedTuple):
    """Measurement blocks under one signature."""

    blocks: tuple[MeasurementBlock, ...]
    nonce: bytes
    """That the signature is also over."""


class Request(NamedTuple):
    """One of a series of requests for measurements."""

    operation: int
    raw: bool = False


class MeasurementLog:
    """Requests for measurements up to the signed one, wherever they are sent (DSP0274 1.2 §10.11)."""

    def __init__(self, connection: Connection, send: Callable[[bytes], bytes]) -> None:
        """`send` gives the answer to a message."""
        self._connection = connection
        self._send = send

    def read(self, requests: Sequence[Request], nonce: bytes) -> Signed:
        """Ask one after the other, the last one with `nonce` for the signature over all.

        Raises:
            EvidenceError: an answer is malformed or refused, or the signature is not the device's.
        """
        log = self._connection.agreed
        blocks: list[MeasurementBlock] = []
        for number, request in enumerate(requests, 1):
            signed = number == len(requests)
            attributes = MeasurementAttributes.RAW if request.raw else 0
            attributes |= MeasurementAttributes.SIGNATURE if signed else 0
            asked = GetMeasurements(attributes=attributes, operation=request.operation, nonce=nonce, slot=SLOT)
            sizes = Sizes(hash=HASH_BYTES, signature=SIZES.signature if signed else 0)
            answer, data = decoded(Measurements, self._send(asked.encode()), sizes)
            with well_formed("MEASUREMENTS"):
                blocks += decode_record(answer.record, answer.block_count)
            log += asked.encode() + (data[: -SIZES.signature] if signed else data)
        self._connection.check_signature(SigningContext.MEASUREMENTS, log, answer.signature)
        return Signed(tuple(blocks), nonce)


class Connection:
    """One conversation with a device. Not for several threads."""

    def __init__(self, mailbox: Exchange, timeout_s: float = TIMEOUT_S) -> None:
        """Nothing is sent yet; `timeout_s` is how long to wait for each answer."""
        self.mailbox = mailbox
        self.timeout_s = timeout_s
        self.agreed = b""
        """GET_VERSION to ALGORITHMS, with which every transcript begins."""
        self.chain = b""
        """As it lies in slot 0."""
        self.certificates: tuple[x509.Certificate, ...] = ()
        """Root first."""
        self._chain_read = b""
        """Requests for the chain, with answers: a challenge that comes next is over them too."""
        self._challenged = False
        """Since the negotiation."""
        self._key: ec.EllipticCurvePublicKey | None = None

    def negotiate(self) -> None:
        """GET_VERSION, GET_CAPABILITIES, NEGOTIATE_ALGORITHMS; whatever session there was, the device forgets.

        Raises:
            EvidenceError: the device is none that this requester can speak with.
        """
        self.agreed = self._chain_read = b""
        self._challenged = False
        version = self._negotiate(GetVersion(), Version)
        if VERSION_ENTRY_1_2 not in {entry & VERSION_ENTRY_MASK for entry in version.entries}:
            raise EvidenceError(f"VERSION: no SPDM 1.2 among {[f'{entry:#06x}' for entry in version.entries]}")
        capabilities = self._negotiate(
            GetCapabilities(
                ct_exponent=CT_EXPONENT,
                flags=REQUESTER_CAPABILITIES,
                data_transfer_size=MAX_MESSAGE_BYTES,
                max_message_size=MAX_MESSAGE_BYTES,
            ),
            Capabilities,
        )
        if missing := NEEDED & ~Capability(capabilities.flags & ~(1 << 31)):
            raise EvidenceError(f"CAPABILITIES: the device lacks {missing!r}")
        chosen = self._negotiate(NegotiateAlgorithms.of(tables=TABLES), Algorithms)
        wanted = Algorithms.of(
            measurement_specification=DMTF_MEASUREMENTS,
            opaque_format=OpaqueFormat.FORMAT_1,
            measurement_hash=MeasurementHash.SHA384,
            base_asym=BaseAsym.ECDSA_P384,
            base_hash=BaseHash.SHA384,
            tables=TABLES,
        )
        if chosen != wanted:
            names = [each.name for each in dataclasses.fields(wanted)]
            others = [name for name in names if getattr(chosen, name) != getattr(wanted, name)]
            raise EvidenceError(f"ALGORITHMS: not what was offered: {', '.join(others)}")

    def read_chain(self) -> None:
        """GET_DIGESTS, GET_CERTIFICATE: the chain of slot 0, which nothing vouches for yet.

        Raises:
            EvidenceError: it is malformed, or not what its digest or its root's hash say, or has another kind of key.
        """
        asked = GetDigests()
        digests, data = decoded(Digests, self.send(asked.encode()), SIZES)
        self._chain_read += asked.encode() + data
        if not digests.slots & 1 << SLOT:
            raise EvidenceError("DIGESTS: slot 0 has no chain")
        chain = b""
        remainder = _MAX_CHAIN_BYTES
        while remainder:
            part = GetCertificate(
                slot=SLOT, offset=len(chain), length=min(remainder, MAX_MESSAGE_BYTES - 2 * HEADER_BYTES)
            )
            answer, data = decoded(Certificate, self.send(part.encode()), SIZES)
            self._chain_read += part.encode() + data
            if not answer.portion or len(chain) + len(answer.portion) + answer.remainder_length > _MAX_CHAIN_BYTES:
                raise EvidenceError("CERTIFICATE: portions that do not make a chain")
            chain += answer.portion
            remainder = answer.remainder_length
        if HASH(chain).digest() != digests.digests[0]:
            raise EvidenceError("CERTIFICATE: the chain is not the one of DIGESTS")
        self._take_chain(chain)

    def challenge(self, nonce: bytes, summary: SummaryType = SummaryType.ALL) -> bytes:
        """CHALLENGE; the summary hash of measurements, signed with the nonce.

        Raises:
            EvidenceError: the answer is malformed or refused, or the signature is not the device's.
        """
        asked = Challenge(slot=SLOT, summary_type=summary, nonce=nonce).encode()
        sizes = Sizes(hash=HASH_BYTES, summary=HASH_BYTES if summary else 0)
        answer, data = decoded(ChallengeAuth, self.send(asked), sizes)
        if answer.chain_hash != self.chain_hash:
            raise EvidenceError("CHALLENGE_AUTH: of another certificate chain")
        log = self.agreed + self._chain_read + asked + data[: -SIZES.signature]
        self.check_signature(SigningContext.CHALLENGE_AUTH, log, answer.signature)
        self._chain_read = b""
        self._challenged = True
        return answer.summary

    def measurements(self, requests: Sequence[Request], nonce: bytes) -> Signed:
        """GET_MEASUREMENTS outside of a session; see `MeasurementLog.read`."""
        return MeasurementLog(self, self.send).read(requests, nonce)

    @property
    def chain_hash(self) -> bytes:
        """What transcripts and CHALLENGE_AUTH have of the chain."""
        return HASH(self.chain).digest()

    def check_signature(self, context: SigningContext, transcript: bytes, signature: bytes) -> None:
        """Raise EvidenceError unless the device has signed this transcript."""
        half = len(signature) // 2
        numbers = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        if self._key is None:
            raise EvidenceError(f"{context.name}: no certificate has been read")
        try:
            self._key.verify(
                encode_dss_signature(*numbers),
                signed_message(context, HASH(transcript).digest()),
                ec.ECDSA(hashes.SHA384()),
            )
        except InvalidSignature:
            raise EvidenceError(f"{context.name}: the signature is not the one of the certificate's key") from None

    def send(self, message: bytes) -> bytes:
        """Send a message outside of sessions; its answer, which may have padding behind it."""
        self.passes(message)
        return self.mailbox.exchange(PCI_SIG, OBJECT_SPDM, message, self.timeout_s)

    def passes(self, message: bytes) -> None:
        """Take notice of a message that goes to the device, as `send` and sessions do.

        Some begin anew what the next challenge is over.
        """
        if begins_chain_anew(message[1], challenged=self._challenged):
            self._chain_read = b""

    def _negotiate(self, asked: Message, kind: type[M]) -> M:
        answer, data = decoded(kind, self.send(asked.encode()), SIZES)
        self.agreed += asked.encode() + data
        return answer

    def _take_chain(self, chain: bytes) -> None:
        with well_formed("CERTIFICATE"):
            root_hash, certificates = decode_chain(chain, HASH_BYTES)
        if not certificates or HASH(certificates[0]).digest() != root_hash:
            raise EvidenceError("CERTIFICATE: the chain does not begin with the root that it names")
        try:
            parsed = tuple(map(parse_certificate, certificates))
            with parsing("the last certificate's key does not parse"):
                key = parsed[-1].public_key()
        except CertificateChainError as error:
            raise EvidenceError(f"CERTIFICATE: {error}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            raise EvidenceError("CERTIFICATE: the last certificate carries no P-384 key")
        self.chain, self.certificates, self._key = chain, parsed, key


@contextmanager
def well_formed(name: str) -> Iterator[None]:
    """Malformed bytes are an EvidenceError that names their message."""
    try:
        yield
    except SpdmFormatError as error:
        raise EvidenceError(f"{name}: malformed: {error}") from None


def decoded(kind: type[M], data: bytes, sizes: Sizes) -> tuple[M, bytes]:
    """The answer of a kind, and its bytes without padding.

    Raises:
        SpdmRefusedError: the device answered ERROR.
        EvidenceError: it is another message, or malformed.
    """
    name = kind.CODE.name if isinstance(kind.CODE, ResponseCode) else kind.__name__
    with well_formed(name):
        if len(data) >= HEADER_BYTES and data[1] == ResponseCode.ERROR:
            error, _ = Error.decode(data[:HEADER_BYTES])
            raise SpdmRefusedError(f"instead of {name}", error.code, error.data)
        answer, size = kind.decode(data, sizes)
        if data[0] != (VERSION_1_0 if kind is Version else VERSION_1_2):
            raise SpdmFormatError(f"version {data[0]:#04x}")
    return answer, data[:size]


def new_nonce() -> bytes:
    """32 random bytes."""
    return secrets.token_bytes(NONCE_BYTES)
