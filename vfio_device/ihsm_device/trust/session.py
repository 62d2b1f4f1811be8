# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A secured session: its keys, all in the key store, and its records (DMTF DSP0274 1.2 §12, DSP0277 1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass, field

from ihsm_abi.spdm import secured
from ihsm_abi.spdm.key_schedule import IV_INFO, KEY_INFO, Label, info
from ihsm_abi.spdm.layout import SpdmFormatError
from ihsm_device.hsm.keystore import AuthenticationError, Handle, Hash, KeyStore, Owner, StaleHandleError
from ihsm_device.trust.transcript import Log, RunningHash
from ihsm_device.trust.withheld import WITHHELD


@dataclass(slots=True)
class _Direction:
    """Keys of one direction, and the number of its next record."""

    key: Handle
    iv: Handle
    sequence: int = 0


@dataclass(slots=True)
class _Keys:
    """Both directions."""

    request: _Direction
    response: _Direction


@dataclass(slots=True)
class Session:
    """A session, from KEY_EXCHANGE to its end. Its keys go with `close`."""

    id: int
    store: KeyStore
    digest: Hash
    owner: Owner
    shared: InitVar[Handle]
    """The secret that both sides have made; it is the session's from now on."""
    transcript: RunningHash
    """TH, as far as it has come."""
    measured: Log
    """L1 inside the session."""
    established: bool = False
    """FINISH has come."""
    _alive: set[Handle] = field(init=False)
    _shared: Handle = field(init=False)
    _handshake: Handle | None = None
    _request_finished: Handle | None = None
    _response_finished: Handle | None = None
    _keys: _Keys | None = None

    def __post_init__(self, shared: Handle) -> None:
        """No keys yet."""
        self._alive = {shared}
        self._shared = shared

    def begin(self) -> None:
        """The handshake's keys, from the shared secret, which goes, and the transcript as it is now (TH1)."""
        size = self.digest.size_bytes
        self._handshake = self._keep(self.store.hkdf_extract(self.digest, bytes(size), self._shared, self.owner))
        self._destroy({self._shared})
        hash_now = self.transcript.digest()
        with (
            self._passing(self._expand(self._handshake, size, Label.REQUEST_HANDSHAKE, hash_now)) as request,
            self._passing(self._expand(self._handshake, size, Label.RESPONSE_HANDSHAKE, hash_now)) as response,
        ):
            self._request_finished = self._keep(self._expand(request, size, Label.FINISHED))
            self._response_finished = self._keep(self._expand(response, size, Label.FINISHED))
            self._keys = _Keys(self._direction(request), self._direction(response))

    def response_proof(self) -> bytes:
        """The responder's proof over the transcript as it is now."""
        assert self._response_finished is not None
        return self.store.hmac(self._response_finished, self.digest, self.transcript.digest())

    def request_proof_holds(self, proof: bytes) -> bool:
        """Whether this is the requester's proof over the transcript as it is now."""
        assert self._request_finished is not None
        return self.store.hmac_verify(self._request_finished, self.digest, self.transcript.digest(), proof)

    def establish(self) -> None:
        """From the handshake's keys to those of data, with the transcript as it is now (TH2)."""
        assert self._handshake is not None
        size, hash_now, outgoing = self.digest.size_bytes, self.transcript.digest(), set(self._alive)
        with (
            self._passing(self._expand(self._handshake, size, Label.DERIVED)) as salt,
            self._passing(self.store.hkdf_extract(self.digest, salt, bytes(size), self.owner)) as master,
            self._passing(self._expand(master, size, Label.REQUEST_DATA, hash_now)) as request,
            self._passing(self._expand(master, size, Label.RESPONSE_DATA, hash_now)) as response,
        ):
            self._keys = _Keys(self._direction(request), self._direction(response))
        self._handshake = self._request_finished = self._response_finished = None
        self.established = True
        self._destroy(outgoing)

    def close(self) -> None:
        """Wipe the keys."""
        self._destroy(set(self._alive))

    def open(self, record: secured.Record) -> bytes:
        """The message in the next record of the requester's.

        Raises:
            AuthenticationError: it is not that.
        """
        assert self._keys is not None
        way = self._keys.request
        data = record.ciphertext + record.tag
        plain = self.store.record_open(way.key, way.iv, way.sequence, record.header, data, WITHHELD)
        way.sequence += 1
        try:
            return secured.message_of(plain)
        except SpdmFormatError as error:
            raise AuthenticationError(str(error)) from None

    def seal(self, message: bytes) -> bytes:
        """The next record of the responder's, around a message."""
        assert self._keys is not None
        way = self._keys.response
        header = secured.record_header(self.id, len(message))
        data = self.store.record_seal(way.key, way.iv, way.sequence, header, secured.plaintext(message))
        way.sequence += 1
        return header + data

    def _direction(self, secret: Handle) -> _Direction:
        key = self._keep(self.store.hkdf_expand(secret, self.digest, KEY_INFO, secured.AEAD_KEY_BYTES, self.owner))
        iv = self._keep(self.store.hkdf_expand(secret, self.digest, IV_INFO, secured.AEAD_IV_BYTES, self.owner))
        return _Direction(key, iv)

    def _expand(self, secret: Handle, length: int, label: Label, context: bytes = b"") -> Handle:
        return self.store.hkdf_expand(secret, self.digest, info(length, label, context), length, self.owner)

    def _keep(self, key: Handle) -> Handle:
        self._alive.add(key)
        return key

    def _destroy(self, keys: set[Handle]) -> None:
        for key in keys:
            self._alive.discard(key)
            with suppress(StaleHandleError):
                self.store.destroy(key)

    @contextmanager
    def _passing(self, key: Handle) -> Iterator[Handle]:
        """A secret that is needed for a moment."""
        try:
            yield key
        finally:
            self.store.destroy(key)
