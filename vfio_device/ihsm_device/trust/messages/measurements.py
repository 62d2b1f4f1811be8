# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""GET_MEASUREMENTS: how many blocks there are, one of them, or all; signed if asked for."""

from __future__ import annotations

from typing import Final

from ihsm_abi.spdm.chain import SLOT
from ihsm_abi.spdm.codes import NONCE_BYTES, MeasurementAttributes, MeasurementOperation
from ihsm_abi.spdm.measurements import MeasurementBlock, encode_record
from ihsm_abi.spdm.messages import SLOT_MASK, GetMeasurements, Measurements
from ihsm_abi.spdm.signing import SigningContext
from ihsm_device.trust.connection import Answer, Connection
from ihsm_device.trust.errors import invalid
from ihsm_device.trust.evidence import SIGNATURE_BYTES
from ihsm_device.trust.session import Session

_MAX_RAW_BYTES: Final = 300
"""Of a block when all are asked for: data longer than this are there as their hash, for all must fit in one answer."""


def answer(connection: Connection, data: bytes, session: Session | None) -> Answer:
    """A signature is over this exchange and those before it back to the last signature, or to another request."""
    request, size = GetMeasurements.decode(data)
    signed = bool(request.attributes & MeasurementAttributes.SIGNATURE)
    if request.slot & SLOT_MASK != SLOT or not connection.agreed.measurements:
        raise invalid()
    measured = connection.evidence.measured
    blocks = _blocks(connection, request.operation, raw=bool(request.attributes & MeasurementAttributes.RAW))
    unsigned = Measurements(
        total=len(measured) if request.operation == MeasurementOperation.COUNT else 0,
        slot=SLOT,
        block_count=len(blocks),
        record=encode_record(blocks),
        nonce=connection.store.random(NONCE_BYTES),
        opaque=b"",
        signature=b"",
    ).encode()
    connection.require_room(len(unsigned) + (SIGNATURE_BYTES if signed else 0), session)
    log = connection.measured(session)
    log.append(data[:size], unsigned)
    if not signed:
        return Answer(unsigned)
    signature = connection.evidence.sign(connection.agreed.digest, SigningContext.MEASUREMENTS, log.digest())
    log.reset()
    return Answer(unsigned + signature)


def _blocks(connection: Connection, operation: int, *, raw: bool) -> list[MeasurementBlock]:
    measured = connection.evidence.measured
    if operation == MeasurementOperation.COUNT:
        return []
    if operation == MeasurementOperation.ALL:
        return [each.block(raw=raw and len(each.data) <= _MAX_RAW_BYTES) for each in measured]
    found = [each.block(raw=raw) for each in measured if each.index == operation]
    if not found:
        raise invalid()
    return found
