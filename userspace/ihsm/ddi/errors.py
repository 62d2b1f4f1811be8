# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a client and the security module."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ihsm.errors import IhsmError
from ihsm_abi.ddi import DdiOp, DdiStatus
from ihsm_abi.mbor import MborEncodeError, MborMap


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


class BatchError(DdiError):
    """Some commands of an array failed; the others were carried out."""

    def __init__(self, op: DdiOp, count: int, errors: Mapping[int, IhsmError], results: Any) -> None:
        """Of `count` commands."""
        first = min(errors)
        super().__init__(f"{op.name}: {len(errors)} of {count} commands failed, the first at {first}: {errors[first]}")
        self.op = op
        self.count = count
        self.errors = dict(sorted(errors.items()))
        """What became of each command that failed, by its position in the arrays: mostly `StatusError`."""
        self.results = results
        """What would have been returned; rows of commands that failed are zero, and have no bytes if all failed."""


class NotAsynchronousError(DdiError, TypeError):
    """A coroutine was used over a transport that only has `exchange`; nothing was sent."""

    exit_code = 2

    def __init__(self, transport: object) -> None:
        """`transport` is what the channel was given."""
        super().__init__(
            f"call_async: {type(transport).__name__} has no exchange_async: use call, or a transport of coroutines "
            "such as ihsm.driver.Controller"
        )


class RequestError(DdiError, MborEncodeError):
    """A request that cannot be encoded: the message names operation, field and what is wrong with it."""

    exit_code = 2

    def __init__(self, op: DdiOp, request: MborMap, error: MborEncodeError) -> None:
        """`error` is what the encoder says; it packs numbers together and does not tell which is too large."""
        MborEncodeError.__init__(self, error.kind, error.where)
        values = ((field.name, getattr(request, field.name)) for field in dataclasses.fields(request))  # type: ignore[arg-type]
        numbers = ", ".join(f"{name} {int(value)}" for name, value in values if isinstance(value, int))
        self.args = (f"{op.name}: {error}" + (f" ({numbers})" if numbers else ""),)
        self.op = op


class ResponseError(DdiError, ValueError):
    """A response that does not decode, or that contradicts its request."""


class CertificateChainError(DdiError, ValueError):
    """The device's certificates do not form a chain that can be trusted; the message says why."""


class DeviceKeyError(DdiError, ValueError):
    """A key that the device offers for encryption is not signed by the partition's identity key."""


class AttestationError(DdiError, ValueError):
    """A report that is malformed, or whose signature does not verify."""
