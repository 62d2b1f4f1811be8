# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What passes between the HSM queues and the security module: one command in, one completion out."""

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from ihsm_abi.hsm_queue import ControlKind, HsmStatus, SessionControl

SHORT_APP_ID: Final = 0
"""Short app id of every session."""


class HsmCommand(NamedTuple):
    """A fetched request with the control fields of its queue entry (spec 02 B.1, B.2)."""

    message: bytes
    kind: ControlKind
    id_valid: bool
    session_id: int


class HsmCompletion(NamedTuple):
    """A response message with the session fields of its completion entry (spec 02 B.3).

    `sc` other than 0 goes with an empty message. `rollback`, where present, takes back what the command made (a key, a
    session); it is for the queue to call if the response cannot be written to the guest's memory. `Context.undo` says
    which commands have one, and why others have not.
    """

    message: bytes
    flags: SessionControl
    session_id: int = 0
    short_app_id: int = 0
    sc: int = HsmStatus.SUCCESS
    rollback: Callable[[], None] | None = None


class Lane(Enum):
    """Which worker may run a command: SLOW ones (RSA, key generation by search) must not hold up FAST ones."""

    FAST = "fast"
    SLOW = "slow"
