# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Requests: one file a message, and the table of where each may come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ihsm_abi.spdm.codes import RequestCode
from ihsm_device.trust.connection import Answer, Connection, Stage
from ihsm_device.trust.messages import (
    algorithms,
    capabilities,
    certificate,
    challenge,
    digests,
    end_session,
    finish,
    key_exchange,
    measurements,
    vendor_defined,
    version,
)
from ihsm_device.trust.session import Session

Handler = Callable[[Connection, bytes, Session | None], Answer]


class Place(Enum):
    """Where a request may come."""

    OUTSIDE = "outside of a session"
    ANYWHERE = "outside, or in a session that is established"
    ESTABLISHED = "in a session that is established"
    HANDSHAKE = "in a session that is not established yet"


@dataclass(frozen=True, slots=True)
class Rule:
    """When a request may come, and who answers it."""

    answer: Handler
    stages: frozenset[Stage]
    place: Place


_NEGOTIATED: Final = frozenset({Stage.ALGORITHMS})

RULES: Final[Mapping[int, Rule]] = {
    RequestCode.GET_VERSION: Rule(version.answer, frozenset(Stage), Place.OUTSIDE),
    RequestCode.GET_CAPABILITIES: Rule(capabilities.answer, frozenset({Stage.VERSION}), Place.OUTSIDE),
    RequestCode.NEGOTIATE_ALGORITHMS: Rule(algorithms.answer, frozenset({Stage.CAPABILITIES}), Place.OUTSIDE),
    RequestCode.GET_DIGESTS: Rule(digests.answer, _NEGOTIATED, Place.ANYWHERE),
    RequestCode.GET_CERTIFICATE: Rule(certificate.answer, _NEGOTIATED, Place.ANYWHERE),
    RequestCode.CHALLENGE: Rule(challenge.answer, _NEGOTIATED, Place.OUTSIDE),
    RequestCode.GET_MEASUREMENTS: Rule(measurements.answer, _NEGOTIATED, Place.ANYWHERE),
    RequestCode.KEY_EXCHANGE: Rule(key_exchange.answer, _NEGOTIATED, Place.OUTSIDE),
    RequestCode.FINISH: Rule(finish.answer, _NEGOTIATED, Place.HANDSHAKE),
    RequestCode.END_SESSION: Rule(end_session.answer, _NEGOTIATED, Place.ESTABLISHED),
    RequestCode.VENDOR_DEFINED: Rule(vendor_defined.answer, _NEGOTIATED, Place.ANYWHERE),
}
"""Every other request is not supported (spec 06 §2.1)."""
