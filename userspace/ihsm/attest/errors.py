# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong when a device is asked who it is."""

from __future__ import annotations

from ihsm.attest.claims import Claim
from ihsm.errors import IhsmError
from ihsm_abi.spdm.codes import ErrorCode


class EvidenceError(IhsmError, ValueError):
    """What a device says of itself does not hold: malformed, wrongly signed, or contradictory."""

    exit_code = 6
    claims: tuple[Claim, ...] = ()
    """Of `attest`: what had been proved, and, as the last one, what this error is about."""


class ReferenceMismatchError(EvidenceError):
    """A device proved what it is, and that is not what a reference describes."""


class ReferenceFileError(IhsmError, ValueError):
    """A file that is no reference; the message says where."""

    exit_code = 2


class SpdmRefusedError(EvidenceError):
    """A device answered a request with ERROR; `code` says why (DSP0274 1.2 §10.10)."""

    def __init__(self, request: str, code: int, data: int) -> None:
        """`request`: name of the message that was refused."""
        name = ErrorCode(code).name if code in set(ErrorCode) else "unknown error"
        super().__init__(f"{request}: the device refuses, error {code:#04x} ({name}), data {data:#04x}")
        self.code = code
        self.data = data
