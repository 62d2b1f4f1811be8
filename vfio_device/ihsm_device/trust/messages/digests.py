# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GET_DIGESTS: the hash of the chain."""

from __future__ import annotations

from ihsm_abi.spdm.chain import SLOT
from ihsm_abi.spdm.messages import Digests, GetDigests
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.session import Session


def answer(connection: Connection, data: bytes, session: Session | None) -> Answer:
    """Of the one slot."""
    _, size = GetDigests.decode(data)
    response = Digests(slots=1 << SLOT, digests=(connection.chain_hash(),)).encode()
    connection.require_room(len(response), session)
    if session is None:
        connection.transcript.chain_read.append(data[:size], response)
    return Answer(response)
