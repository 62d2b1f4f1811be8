# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-CBC keys in the device (NIST SP 800-38A §6.2, spec 05 §7)."""

from __future__ import annotations

from ihsm.api.buffers import Buffer, frozen
from ihsm.api.handles import DeviceKey
from ihsm.api.kinds import Usage
from ihsm.api.steps import Ask, Procedure
from ihsm.ddi import Key, calls
from ihsm.errors import ArgumentError
from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi import AesOp
from ihsm_abi.ddi.limits import AES_CBC_MAX_BYTES


class AesCbcKey(DeviceKey):
    """An AES-128, -192 or -256 key that is in the device alone.

    The device adds no padding and takes none away: `cryptography.hazmat.primitives.padding.PKCS7(128)` does. It takes
    1,024 bytes a command, which makes CBC the slow one of the ciphers.
    """

    def encrypt(self, iv: Buffer, data: Buffer) -> bytes:
        """Encrypt; the result is as long as the data, and nothing authenticates it.

        Args:
            iv: 16 bytes that nobody could foresee.
            data: a multiple of 16 bytes, not empty.

        Raises:
            ArgumentError, ArgumentTypeError: something that cannot be.
        """
        return self._run("encrypt", AesOp.Encrypt, iv, data)

    async def encrypt_async(self, iv: Buffer, data: Buffer) -> bytes:
        """The same, awaited."""
        return await self._run_async("encrypt_async", AesOp.Encrypt, iv, data)

    def decrypt(self, iv: Buffer, data: Buffer) -> bytes:
        """The reverse; arguments and errors as `encrypt`."""
        return self._run("decrypt", AesOp.Decrypt, iv, data)

    async def decrypt_async(self, iv: Buffer, data: Buffer) -> bytes:
        """The same, awaited."""
        return await self._run_async("decrypt_async", AesOp.Decrypt, iv, data)

    def _run(self, operation: str, op: AesOp, iv: Buffer, data: Buffer) -> bytes:
        first, text = _checked(operation, iv, data)
        return self._handle.run(operation, Usage.ENCRYPT, lambda key: _chained(key, op, first, text))

    async def _run_async(self, operation: str, op: AesOp, iv: Buffer, data: Buffer) -> bytes:
        first, text = _checked(operation, iv, data)
        return await self._handle.run_async(operation, Usage.ENCRYPT, lambda key: _chained(key, op, first, text))


def _checked(operation: str, iv: Buffer, data: Buffer) -> tuple[bytes, bytes]:
    first, text = frozen(operation, "iv", iv), frozen(operation, "data", data)
    if len(first) != AES_BLOCK_BYTES:
        raise ArgumentError(operation, "iv", f"{len(first)} bytes, must be {AES_BLOCK_BYTES}")
    if not text or len(text) % AES_BLOCK_BYTES:
        problem = f"{len(text)} bytes, a multiple of {AES_BLOCK_BYTES} needed, not 0; padding is the caller's (PKCS7)"
        raise ArgumentError(operation, "data", problem)
    return first, text


def _chained(key: Key, op: AesOp, iv: bytes, data: bytes) -> Procedure[bytes]:
    """Commands one after the other, each with the IV that the one before left."""
    parts: list[bytes] = []
    for start in range(0, len(data), AES_CBC_MAX_BYTES):
        part, iv = yield Ask(calls.aes_cbc(key, op, data[start : start + AES_CBC_MAX_BYTES], iv))
        parts.append(part)
    return b"".join(parts)
