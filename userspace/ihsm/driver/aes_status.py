# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Status pairs of AES completions as exceptions (spec 02 E.2-E.4)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from ihsm.errors import AesCommandError, AuthenticationFailedError
from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import AesStatus, EngineError, FetchError, GcmError, XtsError

_ERRORS: Final[dict[int, type[IntEnum]]] = {
    AesStatus.INVALID_FIELD_XTS: XtsError,
    AesStatus.INVALID_FIELD_GCM: GcmError,
    AesStatus.CRYPTO_ENGINE_ERROR: EngineError,
    AesStatus.FETCH_ERROR: FetchError,
}
_MISMATCHES: Final = {
    (AesStatus.CRYPTO_ENGINE_ERROR, EngineError.TAG_MISMATCH),
    (AesStatus.INVALID_FIELD_GCM, GcmError.TAG_MISMATCH),
}


def _name(kind: type[IntEnum] | None, value: int) -> str:
    try:
        return kind(value).name if kind else str(value)
    except ValueError:
        return f"{value:#x}"


def check_status(psf: int, err: int) -> None:
    """Raise the exception that a completion's last two words stand for, if any.

    Raises:
        AuthenticationFailedError: the tag of a decryption does not match.
        AesCommandError: any other status.
    """
    if psf <= Psf.phase.mask and not err:
        return  # the quick way for nearly every completion: no status bit is set
    sts = Psf(psf).status
    name = f"{_name(AesStatus, sts)}/{_name(_ERRORS.get(sts), err)}"
    raise (AuthenticationFailedError if (sts, err) in _MISMATCHES else AesCommandError)(sts, err, name)
