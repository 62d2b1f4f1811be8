# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How Python calls the native key store: statuses become exceptions, owners and KDF input become C values."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.hsm.keystore.types import (
    ArgumentError,
    AuthenticationError,
    CryptoFailureError,
    DecodeError,
    Handle,
    HooksDisabledError,
    KeySizeError,
    KeyStoreError,
    KeyStoreMemoryError,
    KeyStructureError,
    KeyUnwrapError,
    LengthError,
    OaepError,
    Owner,
    PairwiseTestError,
    Part,
    PointAtInfinityError,
    PointNotOnCurveError,
    PointRangeError,
    RangeError,
    StaleHandleError,
    StateFileError,
    StatePermissionError,
    WrongKindError,
)

_ERRORS: Final[dict[int, type[KeyStoreError]]] = {
    lib.KS_STALE: StaleHandleError,
    lib.KS_KIND: WrongKindError,
    lib.KS_ARG: ArgumentError,
    lib.KS_NOMEM: KeyStoreMemoryError,
    lib.KS_CRYPTO: CryptoFailureError,
    lib.KS_DECODE: DecodeError,
    lib.KS_SIZE: KeySizeError,
    lib.KS_STRUCTURE: KeyStructureError,
    lib.KS_AUTH: AuthenticationError,
    lib.KS_OAEP: OaepError,
    lib.KS_KWP: KeyUnwrapError,
    lib.KS_RANGE: RangeError,
    lib.KS_LENGTH: LengthError,
    lib.KS_POINT_RANGE: PointRangeError,
    lib.KS_POINT_CURVE: PointNotOnCurveError,
    lib.KS_POINT_INFINITY: PointAtInfinityError,
    lib.KS_PAIRWISE: PairwiseTestError,
    lib.KS_PERMISSION: StatePermissionError,
    lib.KS_HOOKS: HooksDisabledError,
    lib.KS_STATE_FORMAT: StateFileError,
}
_U16: Final = 0xFFFF
_SESSION_SHIFT: Final = 16
_SCOPE_SHIFT: Final = 32
_U8: Final = 0xFF


def check(status: int) -> None:
    """Raise the exception of a `ks_status` other than KS_OK."""
    if status != lib.KS_OK:
        error = _ERRORS[status]
        raise error((error.__doc__ or "").split("\n", 1)[0].rstrip("."))


def check_import(status: int, size_bytes: int) -> None:
    """As `check`, telling the size of a key whose parts contradict each other."""
    if status == lib.KS_STRUCTURE:
        raise KeyStructureError("The parts of the imported key contradict each other", size_bytes)
    check(status)


def check_file(status: int, error: int, path: str) -> None:
    """As `check`, for operations on the file of the device secret; `error` is an errno."""
    if status == lib.KS_IO:
        if error:
            cause = OSError(error, os.strerror(error), path)
            if isinstance(cause, FileExistsError | FileNotFoundError):
                raise cause
            raise StateFileError(f"{path}: {os.strerror(error)}") from cause
        raise StateFileError(f"{path}: cannot be read or written completely")
    if status == lib.KS_PERMISSION:
        raise StatePermissionError(f"{path}: must be a regular file of this user with mode 0600")
    if status == lib.KS_STATE_FORMAT:
        raise StateFileError(f"{path}: is damaged or of another version")
    check(status)


def pack_owner(owner: Owner) -> int:
    """The packed form of an owner (keystore.cdef.h)."""
    return owner.function & _U16 | (owner.session & _U16) << _SESSION_SHIFT | owner.scope << _SCOPE_SHIFT


def pack_group(function: int | None, scope: int | None, session: int | None) -> tuple[int, int]:
    """Owner value and mask of the tags that are given."""
    value = mask = 0
    for tag, width, shift in ((function, _U16, 0), (session, _U16, _SESSION_SHIFT), (scope, _U8, _SCOPE_SHIFT)):
        if tag is not None:
            value |= (tag & width) << shift
            mask |= width << shift
    return value, mask


def pack_parts(parts: Sequence[Part]) -> tuple[_native.Array[_native.ks_part], list[object]]:
    """An array of `ks_part`, and what must stay alive while it is used."""
    array = ffi.new("ks_part[]", len(parts))
    alive: list[object] = []
    for item, part in zip(array, parts, strict=True):
        if isinstance(part, bytes):
            buffer = ffi.from_buffer("uint8_t[]", part)
            alive.append(buffer)
            item.data, item.size = buffer, len(part)
        else:
            item.handle = part
    return array, alive


def new_handle() -> _native.Array[_native.uint64_t]:
    """Room for a handle that a call returns."""
    return ffi.new("uint64_t *")


def taken(status: int, out: _native.Array[_native.uint64_t]) -> Handle:
    """The handle that a call returned; raises as `check`."""
    check(status)
    return Handle(out[0])


def require_length(name: str, value: bytes, length: int) -> None:
    """Refuse a buffer that the native side would read beyond."""
    if len(value) != length:
        raise ArgumentError(f"{name} has {len(value)} bytes, not {length}")
