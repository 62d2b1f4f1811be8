# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""VENDOR_DEFINED: protocols of PCI-SIG, each with the number that its messages begin with."""

from __future__ import annotations

from ihsm_abi.spdm.messages import PCI_SIG_VENDOR, VendorDefinedRequest, VendorDefinedResponse
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.errors import invalid
from ihsm_device.trust.session import Session


def answer(connection: Connection, data: bytes, session: Session | None) -> Answer:
    """What the protocol answers; messages of others are refused."""
    request, _ = VendorDefinedRequest.decode(data)
    protocol = None
    if request.vendor == PCI_SIG_VENDOR and request.payload:
        protocol = connection.protocols.get((request.standard, request.payload[0]))
    if protocol is None:
        raise invalid()
    payload = request.payload[:1] + protocol.answer(request.payload[1:], None if session is None else session.id)
    response = VendorDefinedResponse(standard=request.standard, vendor=request.vendor, payload=payload).encode()
    connection.require_room(len(response), session)
    return Answer(response)
