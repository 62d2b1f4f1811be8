# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A secured session (DMTF DSP0274 1.2 §10, §12; DSP0277 1.1): KEY_EXCHANGE, FINISH, records, END_SESSION."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from ihsm.attest.connection import (
    HASH,
    HASH_BYTES,
    SIZES,
    Connection,
    MeasurementLog,
    Request,
    Signed,
    decoded,
    well_formed,
)
from ihsm.attest.errors import EvidenceError
from ihsm.errors import IhsmError
from ihsm_abi.doe import OBJECT_SECURED_SPDM, PCI_SIG
from ihsm_abi.spdm.chain import SLOT
from ihsm_abi.spdm.codes import NONCE_BYTES, SummaryType
from ihsm_abi.spdm.key_schedule import IV_INFO, KEY_INFO, Label, info
from ihsm_abi.spdm.layout import Sizes
from ihsm_abi.spdm.messages import (
    PCI_SIG_REGISTRY,
    PCI_SIG_VENDOR,
    VERSION_ENTRY_MASK,
    EndSession,
    EndSessionAck,
    Finish,
    FinishRsp,
    KeyExchange,
    KeyExchangeRsp,
    VendorDefinedRequest,
    VendorDefinedResponse,
)
from ihsm_abi.spdm.opaque import SECURED_VERSION_1_1, read_selected_version, supported_versions
from ihsm_abi.spdm.secured import (
    AEAD_IV_BYTES,
    AEAD_KEY_BYTES,
    message_of,
    plaintext,
    read_record,
    record_header,
    record_iv,
    session_id,
)
from ihsm_abi.spdm.signing import SigningContext

_UNCOMPRESSED: Final = b"\x04"
_REQUESTER_ID: Final = 0xFFFF


class _Direction:
    """Records one way, and the proof of the handshake that goes it."""

    def __init__(self, secret: bytes) -> None:
        self._finished = _expand(secret, info(HASH_BYTES, Label.FINISHED), HASH_BYTES)
        self._cipher = AESGCM(_expand(secret, KEY_INFO, AEAD_KEY_BYTES))
        self._salt = _expand(secret, IV_INFO, AEAD_IV_BYTES)
        self._sequence = 0

    def proof(self, transcript: bytes) -> bytes:
        return hmac.digest(self._finished, HASH(transcript).digest(), HASH)

    def seal(self, session: int, message: bytes) -> bytes:
        header = record_header(session, len(message))
        return header + self._cipher.encrypt(self._iv(), plaintext(message), header)

    def open(self, session: int, data: bytes) -> bytes:
        with well_formed("record"):
            record = read_record(data)
            if record.session_id != session:
                raise EvidenceError(f"record: of session {record.session_id:#010x}, this one is {session:#010x}")
            try:
                plain = self._cipher.decrypt(self._iv(), record.ciphertext + record.tag, record.header)
            except InvalidTag:
                raise EvidenceError("record: does not decrypt with the key that was agreed on") from None
            return message_of(plain)

    def _iv(self) -> bytes:
        iv = record_iv(self._salt, self._sequence)
        self._sequence += 1
        return iv


class _Channel:
    """Messages of one phase of a session."""

    def __init__(self, connection: Connection, session: int, requests: _Direction, answers: _Direction) -> None:
        self._connection = connection
        self.session = session
        self.requests = requests
        self.answers = answers

    def send(self, message: bytes) -> bytes:
        connection = self._connection
        connection.passes(message)
        record = self.requests.seal(self.session, message)
        answer = connection.mailbox.exchange(PCI_SIG, OBJECT_SECURED_SPDM, record, connection.timeout_s)
        return self.answers.open(self.session, answer)


class Session:
    """An established session; a device has one at a time, so end it: `with Session.open(connection) as session`."""

    def __init__(self, connection: Connection, channel: _Channel, summary: bytes) -> None:
        """Made by `open`."""
        self._connection = connection
        self._channel = channel
        self.id = channel.session
        """Requester's half in bits 0 to 15, responder's above."""
        self.summary = summary
        """Summary hash of all measurements, under the signature of the key exchange."""

    @classmethod
    def open(cls, connection: Connection) -> Self:
        """KEY_EXCHANGE and FINISH, on a connection that has read its chain.

        Raises:
            EvidenceError: an answer is malformed or refused, or signature or proof are wrong.
        """
        private = ec.generate_private_key(ec.SECP384R1())
        point = private.public_key().public_numbers()
        asked = KeyExchange(
            summary_type=SummaryType.ALL,
            slot=SLOT,
            session_id=_REQUESTER_ID,
            random=secrets.token_bytes(NONCE_BYTES),
            exchange=b"".join(number.to_bytes(HASH_BYTES, "big") for number in (point.x, point.y)),
            opaque=supported_versions(),
        ).encode()
        answer, data = decoded(KeyExchangeRsp, connection.send(asked), Sizes(hash=HASH_BYTES, summary=HASH_BYTES))
        signed = connection.agreed + connection.chain_hash + asked + data[: -SIZES.signature - SIZES.verify_data]
        connection.check_signature(SigningContext.KEY_EXCHANGE_RSP, signed, answer.signature)
        with well_formed("KEY_EXCHANGE_RSP"):
            version = read_selected_version(answer.opaque)
        if version & VERSION_ENTRY_MASK != SECURED_VERSION_1_1 or answer.mut_auth_requested:
            raise EvidenceError(
                f"KEY_EXCHANGE_RSP: secured messages {version:#06x}, mutual authentication {answer.mut_auth_requested}"
            )
        proven = signed + answer.signature
        handshake = _extract(bytes(HASH_BYTES), _agree(private, answer.exchange))
        identifier = session_id(_REQUESTER_ID, answer.session_id)
        channel = _Channel(
            connection,
            identifier,
            _direction(handshake, Label.REQUEST_HANDSHAKE, proven),
            _direction(handshake, Label.RESPONSE_HANDSHAKE, proven),
        )
        if not hmac.compare_digest(channel.answers.proof(proven), answer.verify_data):
            raise EvidenceError("KEY_EXCHANGE_RSP: the proof is not made with the key that was agreed on")
        transcript = _finish(channel, proven + answer.verify_data)
        derived = _expand(handshake, info(HASH_BYTES, Label.DERIVED), HASH_BYTES)
        master = _extract(derived, bytes(HASH_BYTES))
        data_channel = _Channel(
            connection,
            identifier,
            _direction(master, Label.REQUEST_DATA, transcript),
            _direction(master, Label.RESPONSE_DATA, transcript),
        )
        return cls(connection, data_channel, answer.summary)

    def measurements(self, requests: Sequence[Request], nonce: bytes) -> Signed:
        """GET_MEASUREMENTS in the session; see `MeasurementLog.read`."""
        return MeasurementLog(self._connection, self.send).read(requests, nonce)

    def vendor_defined(self, payload: bytes) -> bytes:
        """A message to one of PCI-SIG's protocols, whose number is the first byte of payload and answer.

        Raises:
            EvidenceError: the answer is malformed or refused, or of another vendor.
        """
        asked = VendorDefinedRequest(standard=PCI_SIG_REGISTRY, vendor=PCI_SIG_VENDOR, payload=payload)
        answer, _ = decoded(VendorDefinedResponse, self.send(asked.encode()), SIZES)
        if (answer.standard, answer.vendor) != (PCI_SIG_REGISTRY, PCI_SIG_VENDOR):
            raise EvidenceError(f"VENDOR_DEFINED: of vendor {answer.vendor.hex()} of registry {answer.standard}")
        return answer.payload

    def send(self, message: bytes) -> bytes:
        """Send a message in the session; its answer.

        Raises:
            EvidenceError: what comes back is no record of this session.
        """
        return self._channel.send(message)

    def end(self) -> None:
        """END_SESSION; raises EvidenceError if the device does not acknowledge it."""
        decoded(EndSessionAck, self.send(EndSession().encode()), SIZES)

    def __enter__(self) -> Self:
        """The session."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """End it; after an exception that is all that is tried, and the exception goes on."""
        if error is None:
            self.end()
            return
        with contextlib.suppress(IhsmError):
            self.end()


def _finish(channel: _Channel, transcript: bytes) -> bytes:
    """FINISH; the transcript behind its answer."""
    head = Finish(signed=0, slot=0, verify_data=b"").encode()
    asked = Finish(signed=0, slot=0, verify_data=channel.requests.proof(transcript + head)).encode()
    _, data = decoded(FinishRsp, channel.send(asked), SIZES)
    return transcript + asked + data


def _direction(secret: bytes, label: Label, transcript: bytes) -> _Direction:
    return _Direction(_expand(secret, info(HASH_BYTES, label, HASH(transcript).digest()), HASH_BYTES))


def _agree(private: ec.EllipticCurvePrivateKey, point: bytes) -> bytes:
    """The shared secret with the holder of a point."""
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(private.curve, _UNCOMPRESSED + point)
    except ValueError:
        raise EvidenceError("KEY_EXCHANGE_RSP: a point that is not on the curve") from None
    return private.exchange(ec.ECDH(), public)


def _extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, HASH)


def _expand(secret: bytes, context: bytes, length: int) -> bytes:
    return HKDFExpand(hashes.SHA384(), length, context).derive(secret)
