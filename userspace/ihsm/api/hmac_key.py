# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HMAC keys in the device (FIPS 198-1, spec 05 §12.1), which are only derived there."""

from __future__ import annotations

import hmac

from ihsm.api.buffers import Buffer, frozen
from ihsm.api.errors import MacMismatchError
from ihsm.api.handles import DeviceKey
from ihsm.api.kinds import Usage
from ihsm.api.steps import Ask, Procedure
from ihsm.ddi import Key, calls
from ihsm.errors import ArgumentError
from ihsm_abi.ddi.limits import HMAC_MESSAGE_MAX_BYTES


class HmacKey(DeviceKey):
    """An HMAC-SHA-256, -384 or -512 key that is in the device alone.

    The device authenticates up to 1,024 bytes in one command and no more; it does not take a digest in place of a
    longer message either, for that would be another function.
    """

    def sign(self, message: Buffer) -> bytes:
        """The tag of a message of up to 1,024 bytes: 32, 48 or 64 bytes.

        Raises:
            ArgumentError, ArgumentTypeError: a longer message, or none.
        """
        text = _checked("sign", message)
        return self._handle.run("sign", Usage.SIGN, lambda key: _tag(key, text))

    async def sign_async(self, message: Buffer) -> bytes:
        """The same, awaited."""
        text = _checked("sign_async", message)
        return await self._handle.run_async("sign_async", Usage.SIGN, lambda key: _tag(key, text))

    def verify(self, message: Buffer, tag: Buffer) -> None:
        """Make sure that a tag, in full length, is that of a message.

        Raises:
            MacMismatchError: it is not; an `InvalidSignature`.
            ArgumentError, ArgumentTypeError: a longer message, or no bytes.
        """
        text, given = _checked("verify", message), frozen("verify", "tag", tag)
        own = self._handle.run("verify", Usage.SIGN, lambda key: _tag(key, text))
        self._compare("verify", own, given)

    async def verify_async(self, message: Buffer, tag: Buffer) -> None:
        """The same, awaited."""
        text, given = _checked("verify_async", message), frozen("verify_async", "tag", tag)
        own = await self._handle.run_async("verify_async", Usage.SIGN, lambda key: _tag(key, text))
        self._compare("verify_async", own, given)

    def _compare(self, operation: str, own: bytes, given: bytes) -> None:
        if not hmac.compare_digest(own, given):
            raise MacMismatchError(f"{operation}: the tag is not that of this message under {self.facts.name}")


def _tag(key: Key, message: bytes) -> Procedure[bytes]:
    tag: bytes = yield Ask(calls.hmac(key, message))
    return tag


def _checked(operation: str, message: Buffer) -> bytes:
    text = frozen(operation, "message", message)
    if len(text) > HMAC_MESSAGE_MAX_BYTES:
        problem = f"{len(text)} bytes, the device takes at most {HMAC_MESSAGE_MAX_BYTES}"
        raise ArgumentError(operation, "message", problem)
    return text
