# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What operations that use a stored key ask of it: its family, its usage, an engine that works."""

from typing import Final

from ihsm_abi.ddi import DdiStatus, KeyUsage
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import CryptoFailureError
from ihsm_device.hsm.partition import Entry, NewEntry
from ihsm_device.hsm.wire import TYPES, USAGE_FLAGS, Family, TypeInfo

_USAGE_BITS: Final = {usage: int(flags) for usage, flags in USAGE_FLAGS.items()}
"""As plain numbers: operators of flag classes take microseconds."""


def info_of(content: NewEntry, family: Family) -> TypeInfo | None:
    """Facts about the type of a client's key; None for another family, internal and session objects."""
    info = None if content.internal or content.type is None else TYPES[content.type]
    return info if info is not None and info.family is family else None


def may(content: NewEntry, usage: KeyUsage) -> bool:
    """Whether a key was made for the usage."""
    wanted = _USAGE_BITS[usage]
    return wanted & int(content.flags) == wanted


def require_family(entry: Entry, family: Family) -> TypeInfo:
    """As `info_of`; InvalidKeyType instead of None."""
    info = info_of(entry.content, family)
    if info is None:
        raise RefusedError(DdiStatus.InvalidKeyType)
    return info


def require_usage(entry: Entry, usage: KeyUsage) -> None:
    """Refuse with InvalidPermissions a key that was not made for the usage."""
    if not may(entry.content, usage):
        raise RefusedError(DdiStatus.InvalidPermissions)


class engine_failure:
    """Answer with the status if the crypto library gives up on what should work."""

    __slots__ = ("_status",)

    def __init__(self, status: DdiStatus) -> None:
        """Use as a context manager around the call."""
        self._status = status

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Turn a CryptoFailureError into the refusal."""
        if isinstance(error, CryptoFailureError):
            raise RefusedError(self._status) from None
