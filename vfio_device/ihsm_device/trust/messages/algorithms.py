# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""NEGOTIATE_ALGORITHMS: one algorithm of each kind."""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from ihsm_abi.spdm.algorithms import (
    DMTF_MEASUREMENTS,
    HASH_PREFERENCE,
    HASHLIB_NAMES,
    Aead,
    Algorithms,
    AlgorithmTable,
    BaseAsym,
    Dhe,
    KeySchedule,
    MeasurementHash,
    NegotiateAlgorithms,
    OpaqueFormat,
    TableType,
)
from ihsm_abi.spdm.codes import Capability
from ihsm_device.trust.connection import Agreed, Answer, Connection, Stage
from ihsm_device.trust.errors import invalid
from ihsm_device.trust.session import Session

_SUPPORTED: Final[dict[int, IntFlag]] = {
    TableType.DHE: Dhe.SECP384R1,
    TableType.AEAD: Aead.AES_256_GCM,
    TableType.KEY_SCHEDULE: KeySchedule.SPDM,
}
"""Of the tables; requesters sign nothing here, so that of their signatures stays without a choice."""
_SESSIONS: Final = Capability.KEY_EX | Capability.ENCRYPT | Capability.MAC


def answer(connection: Connection, data: bytes, _session: Session | None) -> Answer:
    """What both support; a requester with whom there would be no common signature, hash or session is refused."""
    request, size = NegotiateAlgorithms.decode(data)
    base_hash = next((each for each in HASH_PREFERENCE if request.base_hash & each), None)
    if base_hash is None or not request.base_asym & BaseAsym.ECDSA_P384:
        raise invalid()
    chosen = {table.type: table.algorithms & _SUPPORTED.get(table.type, 0) for table in request.tables}
    sessions = all(chosen.get(type) for type in _SUPPORTED)
    if Capability.KEY_EX in connection.peer_flags and not sessions:
        raise invalid()
    measurements = bool(request.measurement_specification & DMTF_MEASUREMENTS)
    opaque = request.opaque_formats & OpaqueFormat.FORMAT_1
    response = Algorithms.of(
        measurement_specification=DMTF_MEASUREMENTS if measurements else 0,
        opaque_format=opaque,
        measurement_hash=MeasurementHash.SHA384 if measurements else 0,
        base_asym=BaseAsym.ECDSA_P384,
        base_hash=base_hash,
        tables=tuple(AlgorithmTable.of(TableType(type), choice) for type, choice in chosen.items()),
    ).encode()
    connection.require_room(len(response), None)
    connection.transcript.negotiated(data[:size], response)
    connection.transcript.agree(HASHLIB_NAMES[base_hash])
    connection.agreed = Agreed(
        base_hash=base_hash,
        measurements=measurements,
        opaque_data=bool(opaque),
        key_exchange=sessions and connection.peer_flags & _SESSIONS == _SESSIONS,
    )
    connection.stage = Stage.ALGORITHMS
    return Answer(response)
