# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which errors say that the device lost session and keys, so that bringing it back and asking again helps."""

from __future__ import annotations

from typing import Final

from ihsm.api.residents import UntrackedKeysError
from ihsm.ddi.errors import StatusError
from ihsm.errors import (
    AesCommandError,
    BusError,
    CommandTimeoutError,
    ControllerFatalError,
    ControllerLostError,
    ControllerNotReadyError,
    ControllerTimeoutError,
    DeviceBusyError,
    DeviceGoneError,
    DeviceNotFoundError,
    HsmCommandError,
    IhsmError,
    QueueClosedError,
    SessionClosedError,
)
from ihsm_abi.aes_queue import AesStatus, GcmError, XtsError
from ihsm_abi.ddi import DdiStatus

LOST_ERRORS: Final = (
    BusError,
    CommandTimeoutError,
    ControllerFatalError,
    ControllerLostError,
    ControllerNotReadyError,
    ControllerTimeoutError,
    DeviceGoneError,
    HsmCommandError,
    QueueClosedError,
    SessionClosedError,
    UntrackedKeysError,
)
"""What a call raises when the device was lost under it."""
LOST_STATUSES: Final = frozenset(
    {
        DdiStatus.CredentialsNotEstablished,
        DdiStatus.FunctionNotEnabled,
        DdiStatus.KeyNotFound,
        DdiStatus.PartitionNotProvisioned,
        DdiStatus.SessionExpected,
        DdiStatus.SessionNeedsRenegotiation,
        DdiStatus.SessionNotFound,
    }
)
"""What the device answers when session or keys went with a reset (spec 04 §4, §12). KeyNotFound, because a key is only
used after it was brought in."""
LOST_AES_STATUSES: Final = frozenset(
    {
        *(
            (AesStatus.INVALID_FIELD_GCM, error)
            for error in (GcmError.KEY_INDEX, GcmError.KEY_NOT_OWNED, GcmError.KEY_SESSION, GcmError.KEY_APP)
        ),
        *(
            (AesStatus.INVALID_FIELD_XTS, error)
            for error in (
                XtsError.KEY1_INDEX,
                XtsError.KEY2_INDEX,
                XtsError.KEY_NOT_OWNED,
                XtsError.KEY1_SESSION,
                XtsError.KEY2_SESSION,
                XtsError.KEY1_APP,
                XtsError.KEY2_APP,
            )
        ),
    }
)
"""The same of AES commands (spec 02 E.3): no such key, or not under this session."""


def is_lost(error: IhsmError) -> bool:
    """Whether an error says that the device lost its session or keys, rather than that it refuses this call."""
    if isinstance(error, StatusError):
        return error.status in LOST_STATUSES
    if isinstance(error, AesCommandError):
        return (error.sts, error.err) in LOST_AES_STATUSES
    return isinstance(error, LOST_ERRORS) and not isinstance(error, DeviceBusyError | DeviceNotFoundError)
