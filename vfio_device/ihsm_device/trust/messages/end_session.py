# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""END_SESSION."""

from __future__ import annotations

from ihsm_abi.spdm.messages import EndSession, EndSessionAck
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.session import Session


def answer(connection: Connection, data: bytes, _session: Session | None) -> Answer:
    """The answer is the session's last record."""
    EndSession.decode(data)
    return Answer(EndSessionAck().encode(), connection.end_session)
