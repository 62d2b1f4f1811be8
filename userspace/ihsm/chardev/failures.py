# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver refuses, as exceptions: errno and extended status of its ioctls (spec 02 A.6-A.9)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final

from ihsm.errors import (
    ArgumentError,
    ControllerNotReadyError,
    DeviceGoneError,
    ForkedError,
    IhsmError,
    QueueClosedError,
    QueueProtocolError,
    RequestRefusedError,
    ResourceError,
    SessionClosedError,
    UnsupportedDeviceError,
)
from ihsm_abi.uapi import AbortExtendedStatus, CpStatus, FpStatus, InternalCode, StatusSource, composite

NOT_TOLD: Final = 0xFFFF_FFFF
"""In a field of an answer that a driver leaves alone where it has nothing to say."""

_Make = Callable[[str], IhsmError]


def _closed(what: str) -> IhsmError:
    return SessionClosedError(f"{what}: the session is not open here: it was closed, or opened by another file")


def _aborted(what: str) -> IhsmError:
    return QueueClosedError(
        f"{what}: given up by the driver: the device did not answer in time, or the controller was reset"
    )


def _not_ready(what: str) -> IhsmError:
    return ControllerNotReadyError(
        f"{what}: the driver takes no commands now: it recovers the controller, or could not"
    )


def _no_memory(what: str) -> IhsmError:
    return ResourceError(f"{what}: the driver has no memory for it, or cannot reach ours", errno.ENOMEM)


def _lengths(what: str) -> IhsmError:
    return ArgumentError(what, "data", "refused by the driver for their length")


_SESSION: Final[Mapping[int, _Make]] = {
    AbortExtendedStatus.ABORT_IN_PROGRESS: _not_ready,
    AbortExtendedStatus.CMD_ABORTED: _aborted,
    AbortExtendedStatus.DEVICE_ERROR: _not_ready,
    CpStatus.NO_MEMORY: _no_memory,
    CpStatus.DEVICE_ERROR: _not_ready,
    CpStatus.NO_EXISTING_SESSION: _closed,
    CpStatus.SESSION_ID_MISMATCH: _closed,
}
_AES: Final[Mapping[int, _Make]] = {
    AbortExtendedStatus.ABORT_IN_PROGRESS: _not_ready,
    AbortExtendedStatus.CMD_ABORTED: _aborted,
    composite(StatusSource.ABORT, FpStatus.DEVICE_ERROR): _not_ready,
    FpStatus.NO_MEMORY: _no_memory,
    FpStatus.DEVICE_ERROR: _not_ready,
    FpStatus.SESSION_ID_DOES_NOT_MATCH: _closed,
    FpStatus.NO_VALID_SESSION_ID: _closed,
    FpStatus.DEVICE_NO_FP_QUEUES: lambda what: UnsupportedDeviceError(f"{what}: the device takes no AES commands"),
    FpStatus.AES_GCM_IOCTL_VALIDATION_FAILED: _lengths,
    FpStatus.AES_XTS_IOCTL_VALIDATION_FAILED: _lengths,
}
_INTERNAL: Final[Mapping[int, _Make]] = {
    InternalCode.ABORT_IN_PROGRESS: _not_ready,
    InternalCode.QSELECT_FAILED: _not_ready,
}
"""Of AES commands whose ioctl succeeds though they did not complete; all other codes are those of a lost command."""


def session_failure(what: str, error: OSError, extended: int) -> IhsmError:
    """What the session ioctl failed with; `extended` is NOT_TOLD where the driver wrote none."""
    return _failure(what, error, extended, _SESSION, CpStatus)


def aes_failure(what: str, error: OSError, extended: int) -> IhsmError:
    """The same of the AES ioctls."""
    return _failure(what, error, extended, _AES, FpStatus)


def _failure(
    what: str, error: OSError, extended: int, known: Mapping[int, _Make], statuses: type[IntEnum]
) -> IhsmError:
    make = known.get(extended)
    if make is not None:
        return make(what)
    if extended == NOT_TOLD:
        return ioctl_failure(what, error)
    try:
        name = statuses(extended).name
    except ValueError:
        name = f"extended status {extended:#x}"
    return RequestRefusedError(f"{what}: {name}", error.errno or 0)


def ioctl_failure(what: str, error: OSError) -> IhsmError:
    """What any ioctl of a node failed with that told no more than its errno."""
    match error.errno:
        case errno.EACCES:
            return ForkedError(what)  # the driver has seen it where we have not: a fork by C code
        case errno.ENOTTY:
            return DeviceGoneError(f"{what}: the driver has let go of the device")
        case errno.EAGAIN:
            return _not_ready(what)
        case errno.ENOMEM:
            return _no_memory(what)
    return RequestRefusedError(what, error.errno or 0)


def unfinished_failure(what: str, result: int, extended: int) -> IhsmError | None:
    """Why an AES command has no answer of the device though its ioctl succeeded (A.7); None if it has one.

    `result` was NOT_TOLD before: the driver writes it only for a command that completed.
    """
    if result == NOT_TOLD:
        return _AES.get(extended, _INTERNAL.get(extended, _aborted))(what)
    if result == 0 and extended == FpStatus.DEVICE_ERROR:
        return QueueProtocolError(f"{what}: the device's completion cannot be: lengths that were not asked for")
    return None
