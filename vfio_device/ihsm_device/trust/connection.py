# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a requester and the device have agreed on so far; every message works with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from ihsm_abi.spdm import secured
from ihsm_abi.spdm.algorithms import BaseHash
from ihsm_abi.spdm.codes import MAX_MESSAGE_BYTES, VERSION_1_0, Capability, SummaryType
from ihsm_abi.spdm.layout import Sizes
from ihsm_device.hsm.keystore import Hash, KeyStore
from ihsm_device.trust.errors import TooLargeRefusedError, invalid
from ihsm_device.trust.evidence import Evidence
from ihsm_device.trust.session import Session
from ihsm_device.trust.transcript import Log, Transcript

_NO_FLAGS: Final = Capability(0)
_STORE_HASHES: Final = {BaseHash.SHA256: Hash.SHA256, BaseHash.SHA384: Hash.SHA384, BaseHash.SHA512: Hash.SHA512}


class Stage(IntEnum):
    """How far the negotiation has come."""

    NOTHING = 0
    VERSION = 1
    CAPABILITIES = 2
    ALGORITHMS = 3


class Answer(NamedTuple):
    """A message, and what happens when it is on its way."""

    message: bytes
    then: Callable[[], None] | None = None


class VendorProtocol(Protocol):
    """A protocol inside vendor-defined messages of PCI-SIG."""

    def answer(self, payload: bytes, session_id: int | None) -> bytes:
        """Answer what follows the protocol's number; `session_id`: of the session in which it came, None for none.

        Raises:
            RefusedError: it gets ERROR instead.
        """

    def session_ended(self) -> None:
        """The session has ended, however it did."""


VendorProtocols = Mapping[tuple[int, int], VendorProtocol]
"""By registry and protocol."""


@dataclass(frozen=True, slots=True)
class Agreed:
    """Algorithms."""

    base_hash: BaseHash
    measurements: bool
    opaque_data: bool
    key_exchange: bool

    @property
    def digest(self) -> Hash:
        """The hash, as the key store names it."""
        return _STORE_HASHES[self.base_hash]

    @property
    def sizes(self) -> Sizes:
        """Lengths of fields that depend on the hash."""
        return Sizes(hash=self.digest.size_bytes, verify_data=self.digest.size_bytes)


@dataclass(slots=True)
class Connection:
    """One function's."""

    store: KeyStore
    function: int
    evidence: Evidence
    protocols: VendorProtocols
    stage: Stage = Stage.NOTHING
    version: int = VERSION_1_0
    """Of what the requester understands: GET_CAPABILITIES chooses it, though it may be refused for something else."""
    transcript: Transcript = field(default_factory=Transcript)
    peer_flags: Capability = _NO_FLAGS
    peer_bytes: int = MAX_MESSAGE_BYTES
    """Longest message that the requester takes."""
    challenged: bool = False
    """CHALLENGE has been answered."""
    session: Session | None = None
    _agreed: Agreed | None = None

    @property
    def agreed(self) -> Agreed:
        """The algorithms."""
        assert self._agreed is not None, "no message needs them before stage ALGORITHMS"
        return self._agreed

    @agreed.setter
    def agreed(self, agreed: Agreed) -> None:
        self._agreed = agreed

    def begin(self) -> None:
        """Forget everything: a negotiation begins, or the client has gone."""
        self.end_session()
        self.stage, self.version = Stage.NOTHING, VERSION_1_0
        self.transcript = Transcript()
        self.peer_flags, self.peer_bytes = _NO_FLAGS, MAX_MESSAGE_BYTES
        self.challenged = False
        self._agreed = None

    def end_session(self) -> None:
        """Wipe the session's keys, and let protocols tear down what it held."""
        session, self.session = self.session, None
        if session is not None:
            session.close()
            for protocol in self.protocols.values():
                protocol.session_ended()

    def measured(self, session: Session | None) -> Log:
        """L1 of the place where a message came."""
        return self.transcript.measured if session is None else session.measured

    def room(self, session: Session | None) -> int:
        """Longest answer: what a data object, and the requester, can take."""
        overhead = 0 if session is None else secured.OVERHEAD_BYTES
        return min(MAX_MESSAGE_BYTES - overhead, self.peer_bytes)

    def require_room(self, size: int, session: Session | None) -> None:
        """Refuse what would have an answer that is too long."""
        if size > self.room(session):
            raise TooLargeRefusedError(size)

    def summary(self, requested: int) -> bytes:
        """The measurement summary that a request asks for."""
        try:
            kind = SummaryType(requested)
        except ValueError:
            raise invalid() from None
        if kind is not SummaryType.NONE and not self.agreed.measurements:
            raise invalid()
        return self.evidence.summary(self.agreed.base_hash, kind)

    def chain(self) -> bytes:
        """The chain of slot 0."""
        return self.evidence.chain(self.agreed.base_hash)

    def chain_hash(self) -> bytes:
        """Its hash."""
        return self.store.digest(self.agreed.digest, self.chain())
