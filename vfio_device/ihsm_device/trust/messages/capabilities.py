# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GET_CAPABILITIES: what both sides can do, and the longest message that each takes."""

from __future__ import annotations

from typing import Final

from ihsm_abi.spdm.codes import (
    CT_EXPONENT,
    MAX_MESSAGE_BYTES,
    MIN_TRANSFER_BYTES,
    RESPONDER_CAPABILITIES,
    VERSION_1_2,
    Capability,
)
from ihsm_abi.spdm.messages import Capabilities, GetCapabilities
from ihsm_device.trust.connection import Answer, Connection, Stage
from ihsm_device.trust.errors import invalid
from ihsm_device.trust.session import Session

_MAX_CT_EXPONENT: Final = 31
_KEYS = Capability.KEY_EX | Capability.PSK
_OF_SESSIONS = Capability.ENCRYPT | Capability.MAC
_NEEDS_KEYS = _OF_SESSIONS | Capability.HANDSHAKE_IN_THE_CLEAR | Capability.HBEAT | Capability.KEY_UPD


def answer(connection: Connection, data: bytes, _session: Session | None) -> Answer:
    """Flags that contradict each other are refused, sizes below the least too."""
    connection.version = VERSION_1_2
    request, size = GetCapabilities.decode(data)
    flags = Capability(request.flags)
    if not _sound(flags) or request.ct_exponent > _MAX_CT_EXPONENT:
        raise invalid()
    transfer, longest = request.data_transfer_size, request.max_message_size
    if not MIN_TRANSFER_BYTES <= transfer <= longest or (transfer != longest and Capability.CHUNK not in flags):
        raise invalid()
    response = Capabilities(
        ct_exponent=CT_EXPONENT,
        flags=RESPONDER_CAPABILITIES,
        data_transfer_size=MAX_MESSAGE_BYTES,
        max_message_size=MAX_MESSAGE_BYTES,
    ).encode()
    connection.peer_flags, connection.peer_bytes = flags, transfer
    connection.transcript.negotiated(data[:size], response)
    connection.stage = Stage.CAPABILITIES
    return Answer(response)


def _sound(flags: Capability) -> bool:
    """Whether flags of a requester do not contradict each other (DSP0274 1.2 §10.3; spec 06 §2.5).

    MUT_AUTH needs no ENCAP, as it did in SPDM 1.1: a requester may be authenticated without encapsulated requests.
    """
    return (
        Capability.PSK_WITH_CONTEXT not in flags
        and (bool(flags & _OF_SESSIONS) if flags & _KEYS else not flags & _NEEDS_KEYS)
        and not (Capability.CERT in flags and Capability.PUB_KEY_ID in flags)
    )
