# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES commands, whichever way they go to the device: arguments, results, and the calls that wait for them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from numpy import void
from numpy.typing import NDArray

from ihsm.arguments import flag, integer, octets
from ihsm.driver.submission import Held, Submitted
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm.fast_path import FastPathSession
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    DATA_UNIT_BYTES,
    GCM_AAD_ALIGNMENT_BYTES,
    GCM_IV_BYTES,
    GCM_TAG_BYTES,
)

DATA_UNIT_CODE: Final = {0: 0, **{size: code for code, size in DATA_UNIT_BYTES.items()}}
"""`dul` by bytes of a data unit; 0 bytes: the whole source is one unit."""
MAX_KEY_ID: Final = 0xFFFF_FFFF
NO_TAG: Final = bytes(GCM_TAG_BYTES)
"""In a command that encrypts."""
_GCM_LENGTHS: Final = (GCM_IV_BYTES, GCM_TAG_BYTES)

_NEW: Final[Any] = tuple.__new__
"""Makes a named tuple in half the time of its own constructor."""

S_co = TypeVar("S_co", bound=Submitted, covariant=True)
GcmArguments = tuple[int, bytes | memoryview, bytes, bytes, bytes]
"""Key id, text, AAD, IV and tag of an AES-GCM command, checked."""


Deliver = Callable[[memoryview, Any], Any]
"""Makes a command's result from the bytes that the device wrote, which are its own for the time of this call alone, and
the completion, of which `tag`, `iv` and `fips_approved` are there in any case. May raise `IhsmError`. It runs under a
queue's lock, and not at all once the command has failed."""


class GcmSealed(NamedTuple):
    """Result of an AES-GCM encryption."""

    ciphertext: bytes
    tag: bytes
    iv: bytes
    """The IV used: the caller's, one drawn for this command, or the device's own (spec 02 E.3)."""
    fips_approved: bool


class AesOutput(NamedTuple):
    """Result of an AES-GCM decryption or of AES-XTS."""

    data: bytes
    fips_approved: bool


def draw_iv() -> bytes:
    """Random IV of 96 bits for one AES-GCM encryption (NIST SP 800-38D §8.2.2: at most 2^32 under one key)."""
    return os.urandom(GCM_IV_BYTES)


def check_session(operation: str, session: FastPathSession) -> None:
    """See that AES commands are given a session; ArgumentTypeError if not."""
    if not isinstance(session, FastPathSession):
        raise ArgumentTypeError(operation, "session", f"{type(session).__name__}, must be a FastPathSession")


def gcm_operation(decrypt: bool) -> str:
    """Name of an AES-GCM command in messages; ArgumentTypeError if `decrypt` is no direction."""
    return "AES-GCM decryption" if flag("AES-GCM", "decrypt", decrypt) else "AES-GCM encryption"


def xts_operation(decrypt: bool) -> str:
    """The same of an AES-XTS command."""
    return "AES-XTS decryption" if flag("AES-XTS", "decrypt", decrypt) else "AES-XTS encryption"


def gcm_arguments(
    decrypt: bool,
    session: FastPathSession,
    key_id: int,
    text: bytes | memoryview,
    aad: bytes,
    iv: bytes,
    tag: bytes | None,
) -> GcmArguments:
    """The arguments as a command takes them; ArgumentError, ArgumentTypeError if they cannot be.

    `tag` is None for an encryption, whose command has zeros in its place.
    """
    sent = NO_TAG if tag is None and decrypt is False else tag
    # One look at what is nearly always right: each check by itself would cost as much as packing an entry.
    if (
        type(text) is type(aad) is type(iv) is type(sent) is bytes
        and (len(iv), len(sent)) == _GCM_LENGTHS
        and type(key_id) is int
        and 0 <= key_id <= MAX_KEY_ID
        and type(session) is FastPathSession
        and decrypt is (tag is not None)
    ):
        return key_id, text, aad, iv, sent
    operation = gcm_operation(decrypt)
    if not decrypt:
        if tag is not None:
            raise ArgumentError(operation, "tag", "only a decryption takes one")
        tag = NO_TAG
    check_session(operation, session)
    return (
        integer(operation, "key_id", key_id, 0, MAX_KEY_ID),
        _text(operation, "text", text),
        octets(operation, "aad", aad),
        octets(operation, "IV", iv, GCM_IV_BYTES),
        octets(operation, "tag", tag, GCM_TAG_BYTES),
    )


def _text(operation: str, argument: str, value: bytes | memoryview) -> bytes | memoryview:
    """Text as it is copied into DMA memory: a view of plain bytes needs no copy before that; errors as `octets`."""
    if isinstance(value, memoryview) and value.ndim == 1 and value.format == "B" and value.c_contiguous:
        return value
    return octets(operation, argument, value)


def unit_code(operation: str, data_unit_bytes: int) -> int:
    """`dul` of a data unit's bytes (spec 02 C.2).

    Raises:
        ArgumentError: no such data unit.
    """
    code = DATA_UNIT_CODE.get(integer(operation, "data_unit_bytes", data_unit_bytes, 0, max(DATA_UNIT_CODE)))
    if code is None:
        raise ArgumentError(operation, "data_unit_bytes", f"{data_unit_bytes}, one of {sorted(DATA_UNIT_CODE)} needed")
    return code


def key_pair(operation: str, key_ids: tuple[int, int]) -> tuple[int, int]:
    """Data key and tweak key of an XTS command.

    Raises:
        ArgumentError, ArgumentTypeError: not two ids.
    """
    if not isinstance(key_ids, Sequence) or len(key_ids) != 2:
        raise ArgumentTypeError(operation, "key_ids", "the ids of two keys needed, data key and tweak key")
    first, second = key_ids
    return (
        integer(operation, "key_ids", first, 0, MAX_KEY_ID),
        integer(operation, "key_ids", second, 0, MAX_KEY_ID),
    )


class XtsArguments(NamedTuple):
    """What an AES-XTS command takes, checked."""

    data: bytes | memoryview
    tweak: bytes
    key_ids: tuple[int, int]
    """Data key and tweak key."""
    unit_code: int


def xts_arguments(
    decrypt: bool,
    session: FastPathSession,
    key_ids: tuple[int, int],
    tweak: bytes,
    data: bytes | memoryview,
    data_unit_bytes: int,
) -> XtsArguments:
    """The arguments as a command takes them; ArgumentError, ArgumentTypeError if they cannot be."""
    operation = xts_operation(decrypt)
    text, block = _text(operation, "data", data), octets(operation, "tweak", tweak, AES_BLOCK_BYTES)
    numbers, code = key_pair(operation, key_ids), unit_code(operation, data_unit_bytes)
    check_session(operation, session)
    return XtsArguments(text, block, numbers, code)


def padded_aad_bytes(aad_bytes: int) -> int:
    """Room that AAD takes at the start of source and destination, see `pad_aad`."""
    return -(-aad_bytes // GCM_AAD_ALIGNMENT_BYTES) * GCM_AAD_ALIGNMENT_BYTES


def pad_aad(aad: bytes) -> bytes:
    """AAD laid out as the device needs it for the tag to be the standard one (spec 02 C.6)."""
    rest = len(aad) % GCM_AAD_ALIGNMENT_BYTES
    if rest == 0:
        return aad
    head = bytes(AES_BLOCK_BYTES) if rest <= AES_BLOCK_BYTES else b""
    return (head + aad).ljust(-(-len(aad) // GCM_AAD_ALIGNMENT_BYTES) * GCM_AAD_ALIGNMENT_BYTES, b"\0")


def gcm_result(written: memoryview, completion: Any, decrypt: bool, deliver: Deliver | None) -> Any:
    """The result of an AES-GCM command that has succeeded, of which `written` is the text."""
    if deliver is not None:
        return deliver(written, completion)
    data, approved = bytes(written), bool(completion.fips_approved)
    return AesOutput(data, approved) if decrypt else _NEW(GcmSealed, (data, completion.tag, completion.iv, approved))


def xts_result(written: memoryview, completion: Any, deliver: Deliver | None) -> Any:
    """The same of an AES-XTS command."""
    if deliver is not None:
        return deliver(written, completion)
    return AesOutput(bytes(written), bool(completion.fips_approved))


class AesCommands(ABC, Generic[S_co]):
    """Where AES commands go: a ring, or the node of a driver. May be used from any thread."""

    entries: int
    """One more than the commands of a batch that are with the device together."""

    @property
    @abstractmethod
    def outstanding(self) -> int:
        """Commands that are with the device."""

    @abstractmethod
    def _send_gcm(
        self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> S_co:
        """`submit_gcm` with what has been checked."""

    @abstractmethod
    def _send_xts(
        self, session: FastPathSession, command: XtsArguments, decrypt: bool, timeout_s: float, deliver: Deliver | None
    ) -> S_co:
        """`submit_xts` with what has been checked."""

    def _await_gcm(self, session: FastPathSession, command: GcmArguments, decrypt: bool, timeout_s: float) -> Any:
        """What becomes of `_send_gcm`."""
        return self._send_gcm(session, command, decrypt, timeout_s, None).result()

    def _await_xts(self, session: FastPathSession, command: XtsArguments, decrypt: bool, timeout_s: float) -> Any:
        """What becomes of `_send_xts`."""
        return self._send_xts(session, command, decrypt, timeout_s, None).result()

    @abstractmethod
    def submit(
        self,
        entries: NDArray[void],
        timeout_s: float,
        held: Held | None = None,
        session: FastPathSession | None = None,
    ) -> S_co:
        """Submit a batch of entries, see `ihsm.driver.aes_batch`; the result is an array of completions.

        Args:
            entries: copied, so they may be used again.
            timeout_s: seconds.
            held: released once the device no longer uses it, or this raises.
            session: whose ids the entries have; None: nobody sees to it that it still is theirs.
        """

    def submit_gcm(
        self,
        session: FastPathSession,
        key_id: int,
        text: bytes | memoryview,
        *,
        decrypt: bool,
        iv: bytes,
        timeout_s: float,
        aad: bytes = b"",
        tag: bytes | None = None,
        deliver: Deliver | None = None,
    ) -> S_co:
        """Submit one AES-GCM command; its result is a `GcmSealed` or, decrypting, an `AesOutput`.

        Args as for `gcm_encrypt` and `gcm_decrypt`, but `iv` always has 12 bytes, see `draw_iv`; `tag` belongs to a
        decryption alone. With `deliver` the result is what that makes of the text, without a copy before.
        """
        command = gcm_arguments(decrypt, session, key_id, text, aad, iv, tag)
        return self._send_gcm(session, command, decrypt, timeout_s, deliver)

    def submit_xts(
        self,
        session: FastPathSession,
        key_ids: tuple[int, int],
        tweak: bytes,
        data: bytes | memoryview,
        *,
        decrypt: bool,
        timeout_s: float,
        data_unit_bytes: int = 0,
        deliver: Deliver | None = None,
    ) -> S_co:
        """Submit one AES-XTS command; its result is an `AesOutput`, or with `deliver` what that makes of the data."""
        command = xts_arguments(decrypt, session, key_ids, tweak, data, data_unit_bytes)
        return self._send_xts(session, command, decrypt, timeout_s, deliver)

    def gcm_encrypt(
        self,
        session: FastPathSession,
        key_id: int,
        plaintext: bytes,
        *,
        timeout_s: float,
        aad: bytes = b"",
        iv: bytes | None = None,
    ) -> GcmSealed:
        """AES-256-GCM encryption (NIST SP 800-38D), 128-bit tag.

        Args:
            session: `Session.fast_path` of an open session.
            key_id: fast-path id of the key.
            plaintext: any length; longer text than half a KiB takes a buffer, see `ihsm.driver.buffers`.
            timeout_s: seconds.
            aad: additional authenticated data.
            iv: 12 bytes, never the same twice under one key; None: drawn at random for this command. A device that
                chooses the IV of approved keys itself (spec 05 §17.1) uses neither: the result says which it was.

        Raises:
            SessionClosedError: the session has ended.
            AesCommandError: the device refused the command.
            ArenaError: no DMA memory for it.
        """
        command = gcm_arguments(False, session, key_id, plaintext, aad, draw_iv() if iv is None else iv, None)
        sealed: GcmSealed = self._await_gcm(session, command, False, timeout_s)
        return sealed

    def gcm_decrypt(
        self,
        session: FastPathSession,
        key_id: int,
        ciphertext: bytes,
        tag: bytes,
        iv: bytes,
        *,
        timeout_s: float,
        aad: bytes = b"",
    ) -> AesOutput:
        """AES-256-GCM decryption.

        Raises:
            AuthenticationFailedError: the tag does not match; nothing is returned.
            AesCommandError: the device refused the command.
        """
        command = gcm_arguments(True, session, key_id, ciphertext, aad, iv, tag)
        output: AesOutput = self._await_gcm(session, command, True, timeout_s)
        return output

    def xts(
        self,
        session: FastPathSession,
        key_ids: tuple[int, int],
        tweak: bytes,
        data: bytes,
        *,
        decrypt: bool,
        timeout_s: float,
        data_unit_bytes: int = 0,
    ) -> AesOutput:
        """AES-256-XTS (IEEE 1619) without ciphertext stealing.

        Args:
            session: `Session.fast_path` of an open session.
            key_ids: data key and tweak key.
            tweak: 16 bytes, byte 0 first into the tweak encryption; data unit j uses the tweak plus j (little-endian).
            data: multiple of 16 bytes, at most 16 MiB.
            decrypt: direction.
            timeout_s: seconds.
            data_unit_bytes: 512, 4096 or 8192; 0: all data are one unit.

        Raises:
            AesCommandError: the device refused the command.
        """
        command = xts_arguments(decrypt, session, key_ids, tweak, data, data_unit_bytes)
        output: AesOutput = self._await_xts(session, command, decrypt, timeout_s)
        return output
