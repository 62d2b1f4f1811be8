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

_ERRORS: Final[dict[int, tuple[type[KeyStoreError], str]]] = {
    # Said here, for docstrings are not there with -OO.
    lib.KS_STALE: (StaleHandleError, "The handle's key was destroyed, or the handle never existed"),
    lib.KS_KIND: (WrongKindError, "The handle refers to another kind of key than the operation needs"),
    lib.KS_ARG: (ArgumentError, "A length or value outside the documented range"),
    lib.KS_NOMEM: (KeyStoreMemoryError, "The locked arena cannot grow"),
    lib.KS_CRYPTO: (CryptoFailureError, "The crypto library refused the operation"),
    lib.KS_DECODE: (DecodeError, "An imported key is not of the documented form"),
    lib.KS_SIZE: (KeySizeError, "An imported or given key has an unsupported size (RSA modulus, AES key, curve)"),
    lib.KS_STRUCTURE: (KeyStructureError, "The parts of an imported key contradict each other"),
    lib.KS_AUTH: (AuthenticationError, "An authentication tag or seal does not verify"),
    lib.KS_OAEP: (OaepError, "RSA-OAEP decoding failed"),
    lib.KS_KWP: (KeyUnwrapError, "AES key unwrap with padding (RFC 5649) failed"),
    lib.KS_RANGE: (RangeError, "An RSA input is not in 1 < y < n-1"),
    lib.KS_LENGTH: (
        LengthError,
        "An RSA input has not the modulus length, or a point or signature not the length of its curve",
    ),
    lib.KS_POINT_RANGE: (PointRangeError, "A coordinate is 0 or >= p"),
    lib.KS_POINT_CURVE: (PointNotOnCurveError, "The coordinates are in range but do not satisfy the curve equation"),
    lib.KS_POINT_INFINITY: (PointAtInfinityError, "The point at infinity, encoded as a single zero byte"),
    lib.KS_PAIRWISE: (PairwiseTestError, "A pairwise consistency test failed; the caller must destroy the key"),
    lib.KS_PERMISSION: (StatePermissionError, "The device-secret file is no regular file of this user with mode 0600"),
    lib.KS_HOOKS: (HooksDisabledError, "A validation hook or fault was used in a store opened without them"),
    lib.KS_STATE_FORMAT: (
        StateFileError,
        "The device-secret file is damaged, of another version, or cannot be read or written",
    ),
}
_U16: Final = 0xFFFF
_SESSION_SHIFT: Final = 16
_SCOPE_SHIFT: Final = 32
_U8: Final = 0xFF


def check(status: int) -> None:
    """Raise the exception of a `ks_status` other than KS_OK."""
    if status != lib.KS_OK:
        error, text = _ERRORS[status]
        raise error(text)


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
