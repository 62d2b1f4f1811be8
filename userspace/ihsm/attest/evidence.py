# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A whole attestation: every claim of a device that can be checked, each with what proves it."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm.arguments import waiting_time
from ihsm.attest.blocks import MeasuredBlock, summary_of
from ihsm.attest.chain import check_chain, check_root
from ihsm.attest.claims import Claim
from ihsm.attest.connection import HASH, TIMEOUT_S, Connection, Exchange, Request, new_nonce
from ihsm.attest.errors import EvidenceError
from ihsm.attest.session import Session
from ihsm.errors import ArgumentError, MailboxNotFoundError
from ihsm_abi.doe import OBJECT_SECURED_SPDM, OBJECT_SPDM, PCI_SIG
from ihsm_abi.spdm.codes import NONCE_BYTES, MeasurementOperation
from ihsm_abi.spdm.measurements import FIRST_BLOCK, LAST_BLOCK, MeasurementBlock

_ALL: Final = Request(MeasurementOperation.ALL)
_ALL_RAW: Final = Request(MeasurementOperation.ALL, raw=True)
_OBJECTS: Final = {(PCI_SIG, OBJECT_SPDM), (PCI_SIG, OBJECT_SECURED_SPDM)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a device has proved. Whether it is a device and code that one wants says its reader, or a `Reference`."""

    nonce: bytes
    """That all signatures are over."""
    certificates: tuple[x509.Certificate, ...]
    """Root first; the last one's key signed."""
    root_pinned: bool
    """Whether the root is one that was named; else whoever made it could prove anything."""
    summary: bytes
    """SHA-384 of all blocks, as challenge, measurements and session have it."""
    blocks: tuple[MeasuredBlock, ...]
    """1 to 36."""
    session: int
    """Id of the session, which has been ended."""
    claims: tuple[Claim, ...]
    """All that was proved, a sentence each; `root` holds only if it was pinned."""

    def block(self, index: int) -> MeasuredBlock:
        """A block by its number from 1 on."""
        return self.blocks[index - FIRST_BLOCK]

    @property
    def root_fingerprint(self) -> bytes:
        """SHA-256 of the root certificate, for comparison with what its owner publishes."""
        return _fingerprint(self.certificates[0])


class _Claims:
    """Claims in the order in which they are proved."""

    def __init__(self) -> None:
        self._proved: list[Claim] = []

    @property
    def proved(self) -> tuple[Claim, ...]:
        return tuple(self._proved)

    @contextmanager
    def proving(self, name: str) -> Iterator[Callable[..., None]]:
        """Context of a proof: it gives a function that takes what holds; an EvidenceError gets the claims so far."""

        def proved(detail: str, holds: bool | None = True) -> None:
            self._proved.append(Claim(name, holds, detail))

        try:
            yield proved
        except EvidenceError as error:
            error.claims = (*self._proved, Claim(name, False, str(error)))
            raise


def attest(
    mailbox: Exchange,
    *,
    nonce: bytes | None = None,
    roots: Collection[x509.Certificate] | None = None,
    at: datetime.datetime | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Evidence:
    """Ask a device who it is and what runs in it, and check every answer.

    That is: discovery of the mailbox, negotiation, the certificate chain, a challenge, all measurements with their data
    under a signature, and a session in which they are read again. A session that another requester has ends.

    Args:
        mailbox: of the function, such as an `ihsm.bus.Mailbox`.
        nonce: 32 bytes that the device could not know before, for its signatures; random by default.
        roots: certificates of which the chain's root must be one; None to take any, see `Evidence.root_pinned`.
        at: time to check certificates for, with its zone; now by default.
        timeout_s: longest wait of the mailbox for one answer, in seconds; what an access to configuration space may
            take is a matter of the function's own limit.

    Raises:
        EvidenceError: something of what the device says does not hold; the message says what, and its `claims` what
            did hold before.
        MailboxNotFoundError: the mailbox takes no SPDM.
        BusError: the mailbox cannot be used or gives no answer.
        ArgumentError, ArgumentTypeError: an argument cannot be so; nothing was sent.
    """
    nonce = new_nonce() if nonce is None else bytes(nonce)
    if len(nonce) != NONCE_BYTES:
        raise ArgumentError("attest", "nonce", f"{len(nonce)} bytes, must be {NONCE_BYTES}")
    at = datetime.datetime.now(datetime.UTC) if at is None else at
    if at.tzinfo is None:
        raise ArgumentError("attest", "at", "a time without its zone")
    timeout_s = waiting_time("attest", "timeout_s", timeout_s)
    if missing := _OBJECTS - set(mailbox.discover(timeout_s)):
        kinds = ", ".join(f"vendor {vendor:#06x} type {kind}" for vendor, kind in sorted(missing))
        raise MailboxNotFoundError(f"the mailbox takes no SPDM: discovery names no objects of {kinds}")
    connection, claims = Connection(mailbox, timeout_s), _Claims()
    with claims.proving("mailbox") as proved:
        connection.negotiate()
        proved("SPDM 1.2")
    with claims.proving("chain") as proved:
        connection.read_chain()
        certificates = connection.certificates
        check_chain(certificates, at)
        root, leaf = _name(certificates[0]), _name(certificates[-1])
        proved(f"{len(certificates)} certificates, {root} to {leaf}, an SPDM responder")
    with claims.proving("root") as proved:
        fingerprint = f"SHA-256 {_fingerprint(certificates[0]).hex()}"
        if roots is None:
            proved(f"{fingerprint}; anybody can make such a chain: name a root to trust (--root, or roots)", None)
        else:
            check_root(certificates[0], roots)
            proved(fingerprint)
    with claims.proving("challenge") as proved:
        summary = connection.challenge(nonce)
        proved(f"signed by the chain's key over nonce {nonce.hex()}")
    with claims.proving("measurements") as proved:
        blocks = _read_blocks(connection, nonce)
        _same_summary("MEASUREMENTS", summary_of(blocks), summary)
        proved(f"{len(blocks)} blocks, signed over the nonce, SHA-384 {summary.hex()}")
    with claims.proving("session") as proved:
        with Session.open(connection) as session:
            _same_summary("KEY_EXCHANGE_RSP", session.summary, summary)
            inside = session.measurements([_ALL], nonce).blocks
            if inside != tuple(block.hashed() for block in blocks):
                raise EvidenceError("MEASUREMENTS in the session: other blocks than before it")
        proved(f"{session.id:#010x}: secured messages 1.1, P-384, AES-256-GCM, the same measurements inside")
    return Evidence(nonce, certificates, roots is not None, summary, blocks, session.id, claims.proved)


def _name(certificate: x509.Certificate) -> str:
    """Subject of a certificate, which anybody may have made, in ASCII."""
    return ascii(certificate.subject.rfc4514_string())[1:-1]


def _fingerprint(certificate: x509.Certificate) -> bytes:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def _read_blocks(connection: Connection, nonce: bytes) -> tuple[MeasuredBlock, ...]:
    """Data of all blocks: together as far as they fit into one answer, the others one by one."""
    blocks = connection.measurements([_ALL_RAW], nonce).blocks
    if [block.index for block in blocks] != list(range(FIRST_BLOCK, LAST_BLOCK + 1)):
        raise EvidenceError(f"MEASUREMENTS: blocks {[block.index for block in blocks]}, 1 to {LAST_BLOCK} expected")
    long = [block.index for block in blocks if not block.raw]
    asked = [Request(index, raw=True) for index in long]
    data = connection.measurements(asked, nonce).blocks if asked else ()
    if [block.index for block in data] != long:
        raise EvidenceError(f"MEASUREMENTS: blocks {[block.index for block in data]}, {long} expected")
    wholes = {block.index: block for block in data}
    return tuple(_whole(block, wholes.get(block.index, block)) for block in blocks)


def _whole(block: MeasurementBlock, with_data: MeasurementBlock) -> MeasuredBlock:
    """A block with its data, which must be those of its hash."""
    if not with_data.raw:
        raise EvidenceError(f"MEASUREMENTS: block {block.index} is asked for as data and given as a hash")
    if with_data is not block and (with_data.type, HASH(with_data.value).digest()) != (block.type, block.value):
        raise EvidenceError(f"MEASUREMENTS: the data of block {block.index} are not those of its hash")
    return MeasuredBlock(block.index, block.type, with_data.value)


def _same_summary(where: str, found: bytes, expected: bytes) -> None:
    if found != expected:
        raise EvidenceError(f"{where}: the blocks do not have the summary that the challenge was answered with")
