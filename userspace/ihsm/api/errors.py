# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the key objects, each with the one of pyca/cryptography that libraries catch as a further base."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm

from ihsm.errors import IhsmError


class UnsupportedByDeviceError(IhsmError, UnsupportedAlgorithm):
    """Something that the device does not do, and that is not imitated outside of it."""

    exit_code = 6

    def __init__(self, operation: str, reason: str) -> None:
        """The message is `operation: reason`, which says what to do instead."""
        IhsmError.__init__(self, f"{operation}: {reason}")
        self.operation = operation
        self._reason = None  # of pyca's base

    def __str__(self) -> str:
        """The message."""
        return str(self.args[0])


class KeyNotExportableError(UnsupportedByDeviceError, TypeError):
    """The secret of a key was asked for, which never leaves the device."""


class InvalidCiphertextError(IhsmError, ValueError):
    """A ciphertext that does not decrypt; deliberately without a reason."""

    exit_code = 6


class SignatureMismatchError(IhsmError, InvalidSignature):
    """A signature is not one of this key over these data."""

    exit_code = 6


class TagMismatchError(IhsmError, InvalidTag):
    """An authentication tag does not match: the data, or what was authenticated with it, is not what was encrypted."""

    exit_code = 6

    def __init__(self, operation: str, reason: str, indices: tuple[int, ...] = ()) -> None:
        """The message is `operation: reason`."""
        super().__init__(f"{operation}: {reason}")
        self.operation = operation
        self.indices = indices
        """Of an operation on many messages: which of them."""


class MacMismatchError(IhsmError, InvalidSignature):
    """A message authentication code is not that of the message under this key."""

    exit_code = 6


class NonceRefusedError(IhsmError, ValueError):
    """The device drew an IV of its own, for it does so with approved keys (spec 05 §17.1), and the caller gave one."""

    exit_code = 6

    def __init__(self, operation: str) -> None:
        """The message says what helps."""
        super().__init__(
            f"{operation}: nonce: this device draws its own for an approved key and did not use the one given; nothing "
            "is returned; use a key of kind aes256-gcm"
        )
        self.operation = operation
