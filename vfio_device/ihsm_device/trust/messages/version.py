# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GET_VERSION: a negotiation begins anew."""

from __future__ import annotations

from ihsm_abi.spdm.messages import VERSION_ENTRY_1_2, GetVersion, Version
from ihsm_device.trust.connection import Answer, Connection, Stage
from ihsm_device.trust.session import Session


def answer(connection: Connection, data: bytes, _session: Session | None) -> Answer:
    """Every session ends, whatever was agreed on is forgotten."""
    _, size = GetVersion.decode(data)
    connection.begin()
    response = Version(entries=(VERSION_ENTRY_1_2,)).encode()
    connection.transcript.negotiated(data[:size], response)
    connection.stage = Stage.VERSION
    return Answer(response)
