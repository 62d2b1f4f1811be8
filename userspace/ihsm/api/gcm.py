# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES-256-GCM keys in the device, in the shape of pyca/cryptography's `AESGCM` (NIST SP 800-38D, spec 05 §17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm.api import gcm_arrays
from ihsm.api.buffers import Buffer, frozen, readable, rows, writable
from ihsm.api.errors import NonceRefusedError, TagMismatchError
from ihsm.api.handles import DeviceKey
from ihsm.api.kinds import Usage
from ihsm.api.steps import FastPath
from ihsm.ddi import Key
from ihsm.driver import AesCommands, FastPathSession, Submitted
from ihsm.driver.aes_commands import padded_aad_bytes
from ihsm.driver.buffers import MAX_BUFFER_BYTES
from ihsm.errors import ArgumentError, AuthenticationFailedError
from ihsm_abi.aes_queue import GCM_IV_BYTES, GCM_TAG_BYTES

NONCE_BYTES: Final = GCM_IV_BYTES
TAG_BYTES: Final = GCM_TAG_BYTES


class AesGcmKey(DeviceKey):
    """An AES-256-GCM key that is in the device alone; it takes the caller's nonces of 12 bytes.

    A key of kind aes256-gcm does so on every device. One of kind aes256-gcm-approved encrypts only where the device
    takes the caller's nonces with approved keys too, which this one says at the first attempt; it decrypts everywhere.

    A nonce serves one encryption under a key: with the same one twice an attacker reads and forges (SP 800-38D §8). A
    message has at most 64 MiB with its associated data.
    """

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None = None) -> bytes:
        """Encrypt and authenticate.

        Args:
            nonce: 12 bytes, never used before under this key.
            data: any length, none too.
            associated_data: authenticated and not encrypted.

        Returns:
            Ciphertext and then the tag of 16 bytes.

        Raises:
            ArgumentError, ArgumentTypeError: something that cannot be; nothing was encrypted.
            NonceRefusedError: the device encrypted with a nonce of its own, as some do with approved keys (spec 05
                §17.1); what it made is not given out.
        """
        command = _encryption("encrypt", nonce, readable("encrypt", "data", data), associated_data)
        return self._done(command)

    async def encrypt_async(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None = None) -> bytes:
        """The same, awaited."""
        command = _encryption("encrypt_async", nonce, frozen("encrypt_async", "data", data), associated_data)
        return await self._done_async(command)

    def encrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer) -> int:
        """The same into memory of the caller's, which has 16 bytes more than the data and may begin with them.

        Returns:
            Bytes written, all of `buf`. After an error it is as it was.
        """
        text = readable("encrypt_into", "data", data)
        into = writable("encrypt_into", "buf", buf, len(text) + TAG_BYTES)
        command = _encryption("encrypt_into", nonce, text, associated_data, into)
        self._done(command)
        return len(into)

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None = None) -> bytes:
        """Verify and decrypt what `encrypt` gave.

        Raises:
            TagMismatchError: nonce, data and associated data do not belong together under this key; an `InvalidTag`.
            ArgumentError, ArgumentTypeError: something that cannot be.
        """
        command = _decryption("decrypt", nonce, readable("decrypt", "data", data), associated_data)
        return self._done(command)

    async def decrypt_async(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None = None) -> bytes:
        """The same, awaited."""
        command = _decryption("decrypt_async", nonce, frozen("decrypt_async", "data", data), associated_data)
        return await self._done_async(command)

    def decrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer) -> int:
        """The same into memory of the caller's, which has 16 bytes less than the data.

        Returns:
            Bytes written, all of `buf`. After an error it is as it was.
        """
        text = readable("decrypt_into", "data", data)
        if len(text) < TAG_BYTES:
            raise TagMismatchError("decrypt_into", "data are shorter than a tag")
        into = writable("decrypt_into", "buf", buf, len(text) - TAG_BYTES)
        command = _decryption("decrypt_into", nonce, text, associated_data, into)
        self._done(command)
        return len(into)

    def encrypt_many(
        self, nonces: NDArray[np.uint8], messages: NDArray[np.uint8], associated_data: Buffer = b""
    ) -> NDArray[np.uint8]:
        """Encrypt n messages of m bytes, of which many are with the device at a time, on all its AES queues.

        Args:
            nonces: shape (n, 12), uint8, all different and never used before under this key.
            messages: shape (n, m), uint8.
            associated_data: the same for all.

        Returns:
            Shape (n, m + 16): each ciphertext with its tag.

        Raises:
            ArgumentError, ArgumentTypeError: arrays of another shape or type, or a nonce that comes twice.
            NonceRefusedError: see `encrypt`.
        """
        work = _encryptions("encrypt_many", nonces, messages, associated_data)
        return self._handle.run("encrypt_many", Usage.ENCRYPT, work.use)

    async def encrypt_many_async(
        self, nonces: NDArray[np.uint8], messages: NDArray[np.uint8], associated_data: Buffer = b""
    ) -> NDArray[np.uint8]:
        """The same, awaited; the arrays must stay as they are meanwhile."""
        work = _encryptions("encrypt_many_async", nonces, messages, associated_data)
        return await self._handle.run_async("encrypt_many_async", Usage.ENCRYPT, work.use)

    def decrypt_many(
        self, nonces: NDArray[np.uint8], messages: NDArray[np.uint8], associated_data: Buffer = b""
    ) -> NDArray[np.uint8]:
        """Verify and decrypt n messages that `encrypt_many` or `encrypt` gave.

        Args:
            nonces: shape (n, 12), uint8.
            messages: shape (n, m + 16), uint8: each ciphertext with its tag.
            associated_data: the same for all.

        Returns:
            Shape (n, m).

        Raises:
            TagMismatchError: `indices` are those of all messages that do not verify; nothing is returned.
            ArgumentError, ArgumentTypeError: arrays of another shape or type.
        """
        work = _decryptions("decrypt_many", nonces, messages, associated_data)
        return self._handle.run("decrypt_many", Usage.ENCRYPT, work.use)

    async def decrypt_many_async(
        self, nonces: NDArray[np.uint8], messages: NDArray[np.uint8], associated_data: Buffer = b""
    ) -> NDArray[np.uint8]:
        """The same, awaited; the arrays must stay as they are meanwhile."""
        work = _decryptions("decrypt_many_async", nonces, messages, associated_data)
        return await self._handle.run_async("decrypt_many_async", Usage.ENCRYPT, work.use)

    def _done(self, command: _Command) -> bytes:
        try:
            result: bytes = self._handle.run_one(command.operation, Usage.ENCRYPT, command.step)
        except AuthenticationFailedError:
            raise command.mismatch from None
        return result

    async def _done_async(self, command: _Command) -> bytes:
        try:
            result: bytes = await self._handle.run_one_async(command.operation, Usage.ENCRYPT, command.step)
        except AuthenticationFailedError:
            raise command.mismatch from None
        return result


@dataclass(slots=True)
class _Command:
    """One encryption or decryption, checked."""

    operation: str
    decrypt: bool
    nonce: bytes
    text: bytes | memoryview
    aad: bytes
    tag: bytes | None
    into: memoryview | None
    """What to write the result into, None for a new one."""

    def step(self, key: Key) -> FastPath:
        """It, with a key in the device."""
        bulk_key_id: int = key.bulk_key_id  # type: ignore[assignment]
        deliver = self._opened if self.decrypt else self._sealed

        def submit(queue: AesCommands[Submitted], session: FastPathSession, timeout_s: float) -> Submitted:
            return queue.submit_gcm(
                session, bulk_key_id, self.text, decrypt=self.decrypt, iv=self.nonce, aad=self.aad, tag=self.tag,
                timeout_s=timeout_s, deliver=deliver,
            )  # fmt: skip

        return FastPath(submit)

    @property
    def mismatch(self) -> TagMismatchError:
        """What is raised when the tag does not match."""
        return TagMismatchError(self.operation, "data, nonce and associated data do not belong together")

    def _sealed(self, written: memoryview, completion: Any) -> bytes:
        if completion.iv != self.nonce:
            raise NonceRefusedError(self.operation)
        if self.into is None:
            return b"".join((written, completion.tag))
        self.into[: len(written)] = written
        self.into[len(written) :] = completion.tag
        return b""

    def _opened(self, written: memoryview, completion: Any) -> bytes:
        if self.into is None:
            return bytes(written)
        self.into[:] = written
        return b""


def _encryption(
    operation: str, nonce: Buffer, text: bytes | memoryview, aad: Buffer | None, into: memoryview | None = None
) -> _Command:
    iv, head = _nonce(operation, nonce), _associated(operation, aad)
    _check_size(operation, "data", len(text), len(head))
    return _Command(operation, False, iv, text, head, None, into)


def _decryption(
    operation: str, nonce: Buffer, data: bytes | memoryview, aad: Buffer | None, into: memoryview | None = None
) -> _Command:
    iv, head = _nonce(operation, nonce), _associated(operation, aad)
    if len(data) < TAG_BYTES:
        raise TagMismatchError(operation, "data are shorter than a tag")
    view = memoryview(data)
    _check_size(operation, "data", len(data) - TAG_BYTES, len(head))
    return _Command(operation, True, iv, view[:-TAG_BYTES], head, bytes(view[-TAG_BYTES:]), into)


def _encryptions(
    operation: str, nonces: NDArray[np.uint8], messages: NDArray[np.uint8], aad: Buffer
) -> gcm_arrays.Messages:
    texts = rows(operation, "messages", messages)
    ivs = rows(operation, "nonces", nonces, count=len(texts), width=NONCE_BYTES)
    head = _associated(operation, aad)
    _check_size(operation, "messages", texts.shape[1], len(head))
    if gcm_arrays.repeated(ivs):
        raise ArgumentError(operation, "nonces", "one comes twice; a nonce serves one encryption under a key")
    return gcm_arrays.Messages(operation, ivs, texts, head, None)


def _decryptions(
    operation: str, nonces: NDArray[np.uint8], messages: NDArray[np.uint8], aad: Buffer
) -> gcm_arrays.Messages:
    sealed = rows(operation, "messages", messages)
    ivs = rows(operation, "nonces", nonces, count=len(sealed), width=NONCE_BYTES)
    head = _associated(operation, aad)
    if sealed.shape[1] < TAG_BYTES:
        raise ArgumentError(operation, "messages", f"rows of {sealed.shape[1]} bytes, a tag alone has {TAG_BYTES}")
    _check_size(operation, "messages", sealed.shape[1] - TAG_BYTES, len(head))
    return gcm_arrays.Messages(operation, ivs, sealed[:, :-TAG_BYTES], head, sealed[:, -TAG_BYTES:])


def _nonce(operation: str, nonce: Buffer) -> bytes:
    data = frozen(operation, "nonce", nonce)
    if len(data) != NONCE_BYTES:
        raise ArgumentError(operation, "nonce", f"{len(data)} bytes, must be {NONCE_BYTES}")
    return data


def _associated(operation: str, aad: Buffer | None) -> bytes:
    return b"" if aad is None else frozen(operation, "associated_data", aad)


def _check_size(operation: str, argument: str, text_bytes: int, aad_bytes: int) -> None:
    if text_bytes + aad_bytes < MAX_BUFFER_BYTES // 2:
        return  # the quick way for nearly every message
    total = text_bytes + padded_aad_bytes(aad_bytes)
    if total > MAX_BUFFER_BYTES:
        raise ArgumentError(
            operation, argument, f"{total} bytes with associated data, at most {MAX_BUFFER_BYTES} in one message"
        )
