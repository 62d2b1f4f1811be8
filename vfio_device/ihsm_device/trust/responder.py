# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The SPDM responder of one function (spec 06 §2.1, §2.5; DMTF DSP0274 1.2, DSP0277 1.1). It does no I/O."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ihsm_abi.spdm.codes import (
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    VERSION_1_0,
    VERSION_1_2,
    ErrorCode,
    RequestCode,
    begins_chain_anew,
)
from ihsm_abi.spdm.layout import SpdmFormatError
from ihsm_abi.spdm.secured import read_record, session_id_of
from ihsm_device.hsm.keystore import AuthenticationError, KeyStoreError
from ihsm_device.trust.connection import Answer, Connection, Stage, VendorProtocols
from ihsm_device.trust.errors import RefusedError, invalid
from ihsm_device.trust.evidence import Evidence
from ihsm_device.trust.messages import RULES, Place, Rule
from ihsm_device.trust.session import Session


class Responder:
    """Answers one requester. Every method may be called from any thread; each waits for the one before it."""

    def __init__(
        self,
        evidence: Evidence,
        function: int,
        protocols: VendorProtocols | None = None,
        *,
        works: Callable[[], bool] = lambda: True,
    ) -> None:
        """`protocols` answer vendor-defined messages; a device that does not `work` any more proves nothing."""
        self._lock = threading.Lock()
        self._works = works
        self._connection = Connection(evidence.store, function, evidence, protocols or {})

    @property
    def session_id(self) -> int | None:
        """Of the session, from KEY_EXCHANGE on; None without one."""
        session = self._connection.session
        return None if session is None else session.id

    def status(self) -> dict[str, Any]:
        """How far the negotiation has come, and the session, for the control socket."""
        session = self._connection.session
        return {
            "negotiated": self._connection.stage.name,
            "session": None if session is None else {"id": f"{session.id:08x}", "established": session.established},
        }

    def answer(self, message: bytes) -> bytes:
        """Answer a message outside of a session; up to three bytes of padding may follow it."""
        with self._lock:
            try:
                answer = self._answer(message, None)
            except RefusedError as error:
                return self._error(error, of_version=message[1:2] == bytes([RequestCode.GET_VERSION]))
            return answer.message

    def answer_secured(self, record: bytes) -> bytes | None:
        """Answer a record of the session with a record; None for what is none, or one of another session.

        A record that is not the session's next one ends the session, and its answer, the last one, says so.
        """
        with self._lock:
            session = self._connection.session
            if session is None or session_id_of(record) != session.id:
                return None
            try:
                return self._answer_in(session, session.open(read_record(record)))
            except (AuthenticationError, SpdmFormatError):
                return self._last(session, RefusedError(ErrorCode.DECRYPT_ERROR))
            except KeyStoreError:
                self._connection.end_session()
                return None

    def forget(self) -> None:
        """The function was reset, or the client has gone: session and negotiation are forgotten."""
        with self._lock:
            self._connection.begin()

    def _answer_in(self, session: Session, message: bytes) -> bytes:
        try:
            answer = self._answer(message, session)
        except RefusedError as error:
            return self._last(session, error) if error.ends_session else session.seal(self._error(error))
        sealed = session.seal(answer.message)
        if answer.then is not None:
            answer.then()
        return sealed

    def _last(self, session: Session, error: RefusedError) -> bytes:
        try:
            return session.seal(self._error(error))
        finally:
            self._connection.end_session()

    def _answer(self, message: bytes, session: Session | None) -> Answer:
        """Whatever is asked, and whatever is refused, breaks the series that it does not belong to."""
        connection = self._connection
        code = message[1] if len(message) >= HEADER_BYTES else None
        if connection.stage is Stage.ALGORITHMS:
            if code != RequestCode.GET_MEASUREMENTS:
                connection.measured(session).reset()
            if code is not None and begins_chain_anew(code, challenged=connection.challenged):
                connection.transcript.chain_read.reset()
        try:
            return self._served(message, session)
        except RefusedError:
            if connection.stage is Stage.ALGORITHMS:
                connection.measured(session).reset()
            raise

    def _served(self, message: bytes, session: Session | None) -> Answer:
        if len(message) > MAX_MESSAGE_BYTES:
            raise RefusedError(ErrorCode.REQUEST_TOO_LARGE)
        if len(message) < HEADER_BYTES:
            raise invalid()
        version, code = message[0], message[1]
        rule = RULES.get(code)
        if rule is None:
            raise RefusedError(ErrorCode.UNSUPPORTED_REQUEST, code)
        if version != (VERSION_1_0 if code == RequestCode.GET_VERSION else VERSION_1_2):
            raise RefusedError(ErrorCode.VERSION_MISMATCH)
        self._admit(rule, session)
        if not self._works():
            raise RefusedError(ErrorCode.UNSPECIFIED)
        try:
            return rule.answer(self._connection, message, session)
        except SpdmFormatError:
            raise invalid() from None
        except KeyStoreError:
            raise RefusedError(ErrorCode.UNSPECIFIED) from None

    def _admit(self, rule: Rule, session: Session | None) -> None:
        """Refuse what may not come now."""
        if self._connection.stage not in rule.stages:
            raise RefusedError(ErrorCode.UNEXPECTED_REQUEST)
        if session is None:
            if rule.place in (Place.ESTABLISHED, Place.HANDSHAKE):
                raise RefusedError(ErrorCode.SESSION_REQUIRED)
        elif rule.place not in ((Place.ANYWHERE, Place.ESTABLISHED) if session.established else (Place.HANDSHAKE,)):
            raise RefusedError(ErrorCode.UNEXPECTED_REQUEST)

    def _error(self, error: RefusedError, *, of_version: bool = False) -> bytes:
        """ERROR in the version that was chosen; that to GET_VERSION is as old as any requester (DSP0274 1.2 §10.2)."""
        return error.message.encode(VERSION_1_0 if of_version else self._connection.version)
