# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GET_CERTIFICATE: a portion of the chain."""

from __future__ import annotations

from ihsm_abi.spdm.chain import SLOT
from ihsm_abi.spdm.messages import SLOT_MASK, Certificate, GetCertificate
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.errors import invalid
from ihsm_device.trust.session import Session

_OVERHEAD_BYTES = len(Certificate(slot=0, portion_length=0, remainder_length=0, portion=b"").encode())


def answer(connection: Connection, data: bytes, session: Session | None) -> Answer:
    """As much as was asked for, as there is, and as fits."""
    request, size = GetCertificate.decode(data)
    chain = connection.chain()
    if request.slot & SLOT_MASK != SLOT or request.length == 0 or request.offset >= len(chain):
        raise invalid()
    longest = connection.room(session) - _OVERHEAD_BYTES
    portion = chain[request.offset :][: min(request.length, longest)]
    response = Certificate(
        slot=SLOT,
        portion_length=len(portion),
        remainder_length=len(chain) - request.offset - len(portion),
        portion=portion,
    ).encode()
    if session is None:
        connection.transcript.chain_read.append(data[:size], response)
    return Answer(response)
