# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-256-XTS keys in the device (IEEE 1619, spec 05 §17.3)."""

from __future__ import annotations

from typing import Any

from ihsm.api.buffers import Buffer, frozen, readable
from ihsm.api.handles import DeviceKey
from ihsm.api.kinds import Usage
from ihsm.api.steps import FastPath
from ihsm.ddi import Key
from ihsm.driver import AesCommands, FastPathSession, Submitted
from ihsm.driver.aes_commands import unit_code
from ihsm.errors import ArgumentError
from ihsm_abi.aes_queue import AES_BLOCK_BYTES, XTS_MAX_BYTES


class AesXtsKey(DeviceKey):
    """A pair of AES-256 keys, for data and for tweaks, that are in the device alone."""

    def encrypt(self, tweak: Buffer, data: Buffer, data_unit_bytes: int = 0) -> bytes:
        """Encrypt data units; the result is as long as the data, and nothing authenticates it.

        Args:
            tweak: 16 bytes, those of a sector number little-endian; each further unit has the next number.
            data: a multiple of 16 bytes up to 16 MiB: the device steals no ciphertext.
            data_unit_bytes: 512, 4096 or 8192; 0: all data are one unit.

        Raises:
            ArgumentError, ArgumentTypeError: something that cannot be.
        """
        return self._run("encrypt", tweak, data, data_unit_bytes, decrypt=False)

    async def encrypt_async(self, tweak: Buffer, data: Buffer, data_unit_bytes: int = 0) -> bytes:
        """The same, awaited."""
        return await self._run_async("encrypt_async", tweak, data, data_unit_bytes, decrypt=False)

    def decrypt(self, tweak: Buffer, data: Buffer, data_unit_bytes: int = 0) -> bytes:
        """The reverse; arguments and errors as `encrypt`."""
        return self._run("decrypt", tweak, data, data_unit_bytes, decrypt=True)

    async def decrypt_async(self, tweak: Buffer, data: Buffer, data_unit_bytes: int = 0) -> bytes:
        """The same, awaited."""
        return await self._run_async("decrypt_async", tweak, data, data_unit_bytes, decrypt=True)

    def _run(self, operation: str, tweak: Buffer, data: Buffer, unit: int, *, decrypt: bool) -> bytes:
        text = readable(operation, "data", data)
        number = _checked(operation, tweak, text, unit)
        result: bytes = self._handle.run_one(
            operation, Usage.ENCRYPT, lambda *keys: _cipher(keys, number, text, unit, decrypt=decrypt)
        )
        return result

    async def _run_async(self, operation: str, tweak: Buffer, data: Buffer, unit: int, *, decrypt: bool) -> bytes:
        text = frozen(operation, "data", data)
        number = _checked(operation, tweak, text, unit)
        result: bytes = await self._handle.run_one_async(
            operation, Usage.ENCRYPT, lambda *keys: _cipher(keys, number, text, unit, decrypt=decrypt)
        )
        return result


def _checked(operation: str, tweak: Buffer, data: bytes | memoryview, unit: int) -> bytes:
    """The tweak, once nothing is wrong with the rest either."""
    number = frozen(operation, "tweak", tweak)
    if len(number) != AES_BLOCK_BYTES:
        raise ArgumentError(operation, "tweak", f"{len(number)} bytes, must be {AES_BLOCK_BYTES}")
    unit_code(operation, unit)
    size = len(data)
    if not size or size % AES_BLOCK_BYTES:
        raise ArgumentError(operation, "data", f"{size} bytes, a multiple of {AES_BLOCK_BYTES} needed, not 0")
    if unit and size % unit:
        raise ArgumentError(operation, "data", f"{size} bytes are no whole number of units of {unit}")
    if size > XTS_MAX_BYTES:
        raise ArgumentError(operation, "data", f"{size} bytes, at most {XTS_MAX_BYTES} in one call")
    return number


def _cipher(keys: tuple[Key, ...], tweak: bytes, data: bytes | memoryview, unit: int, *, decrypt: bool) -> FastPath:
    data_key, tweak_key = (key.bulk_key_id for key in keys)
    assert data_key is not None
    assert tweak_key is not None
    code = 0 if unit == len(data) else unit  # one unit is the whole source (spec 05 §17.3)

    def submit(queue: AesCommands[Submitted], session: FastPathSession, timeout_s: float) -> Submitted:
        return queue.submit_xts(
            session,
            (data_key, tweak_key),
            tweak,
            data,
            decrypt=decrypt,
            timeout_s=timeout_s,
            data_unit_bytes=code,
            deliver=_delivered,
        )

    return FastPath(submit)


def _delivered(written: memoryview, completion: Any) -> bytes:
    return bytes(written)
