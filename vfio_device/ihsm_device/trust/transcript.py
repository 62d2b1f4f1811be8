# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What was said: the running hashes that signatures, proofs and keys are over (DMTF DSP0274 1.2 §10.8, §10.11, §12).

Nothing is kept but hashes, so that a requester who never comes to an end takes no memory. Named as in the standard: M1
is what CHALLENGE_AUTH signs, L1 what MEASUREMENTS sign, TH a handshake; each begins with the negotiation.
"""

from __future__ import annotations

import hashlib
from typing import Protocol, Self


class RunningHash(Protocol):
    """What of hashlib's objects is used."""

    def update(self, data: bytes, /) -> None:
        """Take more data."""

    def digest(self) -> bytes:
        """Hash of all data so far."""

    def copy(self) -> Self:
        """One that goes on from here."""


class Log:
    """A hash that begins with what it is derived from, and can begin anew."""

    def __init__(self, start: RunningHash) -> None:
        """Begin with what `start` has had."""
        self._start = start
        self._running: RunningHash | None = None

    def append(self, *messages: bytes) -> None:
        """Go on."""
        if self._running is None:
            self._running = self._start.copy()
        for message in messages:
            self._running.update(message)

    def digest(self, *messages: bytes) -> bytes:
        """Hash of everything so far and of these messages, which are not kept."""
        whole = (self._running or self._start).copy()
        for message in messages:
            whole.update(message)
        return whole.digest()

    def reset(self) -> None:
        """Begin anew."""
        self._running = None


class Transcript:
    """A connection's."""

    def __init__(self) -> None:
        """Nothing was said."""
        self._negotiation = b""

    def negotiated(self, *messages: bytes) -> None:
        """Messages of the negotiation, at most seven short ones."""
        self._negotiation += b"".join(messages)

    def agree(self, hash_name: str) -> None:
        """The negotiation is complete, and this is the hash."""
        self._start: RunningHash = hashlib.new(hash_name, self._negotiation)
        self.chain_read = self.log()
        """M1 without CHALLENGE."""
        self.measured = self.log()
        """L1 outside a session."""

    def log(self) -> Log:
        """A log that begins with the negotiation."""
        return Log(self._start)

    def handshake(self, chain_hash: bytes) -> RunningHash:
        """TH of a new session, up to the chain's hash."""
        running = self._start.copy()
        running.update(chain_hash)
        return running
