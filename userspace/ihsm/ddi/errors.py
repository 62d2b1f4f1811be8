# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a client and the security module."""

from ihsm.errors import IhsmError
from ihsm_abi.ddi import DdiOp, DdiStatus


class DdiError(IhsmError):
    """Base of the errors of the typed client."""

    exit_code = 6


class StatusError(DdiError):
    """The device answered with a status other than Success."""

    def __init__(self, op: DdiOp, status: DdiStatus) -> None:
        """`status` is what the response header carries."""
        super().__init__(f"{op.name}: {status.name} ({int(status):#010x})")
        self.op = op
        self.status = status


class ResponseError(DdiError):
    """A response that does not decode, or that contradicts its request."""


class CertificateChainError(DdiError):
    """The device's certificates do not form a chain that can be trusted; the message says why."""


class DeviceKeyError(DdiError):
    """A key that the device offers for encryption is not signed by the partition's identity key."""


class AttestationError(DdiError):
    """A report that is malformed, or whose signature does not verify."""
