# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""FINISH: the requester proves that it has the keys too, and the session is there."""

from __future__ import annotations

from ihsm_abi.spdm.codes import ErrorCode
from ihsm_abi.spdm.messages import Finish, FinishRsp
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.errors import RefusedError, invalid
from ihsm_device.trust.session import Session


def answer(connection: Connection, data: bytes, session: Session | None) -> Answer:
    """A wrong proof ends the session; the answer still goes under the handshake's keys."""
    assert session is not None
    request, size = Finish.decode(data, connection.agreed.sizes)
    if request.signed & 1:
        raise invalid()  # nobody asked the requester for a signature
    session.transcript.update(data[: size - len(request.verify_data)])
    if not session.request_proof_holds(request.verify_data):
        raise RefusedError(ErrorCode.DECRYPT_ERROR, ends_session=True)
    session.transcript.update(request.verify_data)
    response = FinishRsp().encode()
    session.transcript.update(response)
    return Answer(response, session.establish)
