# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""CHALLENGE: the device proves that it has the key of its chain."""

from __future__ import annotations

from ihsm_abi.spdm.chain import SLOT
from ihsm_abi.spdm.codes import NONCE_BYTES
from ihsm_abi.spdm.messages import Challenge, ChallengeAuth
from ihsm_abi.spdm.signing import SigningContext
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.errors import invalid
from ihsm_device.trust.evidence import SIGNATURE_BYTES
from ihsm_device.trust.session import Session


def answer(connection: Connection, data: bytes, session: Session | None) -> Answer:
    """A signature over the negotiation, the reading of the chain, and this exchange."""
    request, size = Challenge.decode(data)
    if request.slot != SLOT:
        raise invalid()
    unsigned = ChallengeAuth(
        attributes=SLOT,
        slots=1 << SLOT,
        chain_hash=connection.chain_hash(),
        nonce=connection.store.random(NONCE_BYTES),
        summary=connection.summary(request.summary_type),
        opaque=b"",
        signature=b"",
    ).encode()
    connection.require_room(len(unsigned) + SIGNATURE_BYTES, session)
    transcript = connection.transcript.chain_read
    signature = connection.evidence.sign(
        connection.agreed.digest, SigningContext.CHALLENGE_AUTH, transcript.digest(data[:size], unsigned)
    )
    transcript.reset()
    connection.challenged = True
    return Answer(unsigned + signature)
