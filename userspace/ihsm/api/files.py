# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files encrypted and decrypted by an AES-256-GCM key of the device, in constant memory; see `ihsm.api.file_format`.

with Hsm.open() as hsm, open("plain", "rb") as source, open("sealed", "wb") as sink:
    encrypt_stream(hsm["archive"], source, sink)
"""

from __future__ import annotations

from collections.abc import Iterable

from ihsm.api.errors import NonceRefusedError
from ihsm.api.file_format import FINGERPRINT_AAD, FINGERPRINT_NONCE, HEADER_BYTES, FileFormatError, Header
from ihsm.api.handles import DeviceKey
from ihsm.api.kinds import KINDS, Family, Usage
from ihsm.api.pumping import Pump, Pumping, Reading, Sink, Source, write_all
from ihsm.api.steps import FastPath, Procedure
from ihsm.ddi import Key
from ihsm.driver import GcmSealed
from ihsm.errors import ArgumentError, ArgumentTypeError


def encrypt_stream(key: DeviceKey, source: Source, sink: Sink) -> int:
    """Encrypt all that a source has.

    Args:
        key: an "aes256-gcm" key of an `Hsm`.
        source: binary file to read, such as `open(path, "rb")`.
        sink: binary file to write; what was written when this raises is to be thrown away.

    Returns:
        Bytes of text.

    Raises:
        ArgumentError, ArgumentTypeError: another kind of key.
        NonceRefusedError: the device draws IVs of its own for this key, so that STREAM's cannot be had.
        OSError: source or sink fails.
        IhsmError: the device fails; it is brought back once if it was lost, and what was under way repeated.
    """
    _check("encrypt_stream", key)
    header = Header.new(fingerprint(key))
    write_all(sink, header.encode())
    return _run(key, Reading(source), sink, header, decrypt=False)


def decrypt_stream(keys: DeviceKey | Iterable[DeviceKey], source: Source, sink: Sink) -> int:
    """Decrypt what `encrypt_stream` wrote. What reaches the sink has been verified, but may not be all.

    Args:
        keys: the key, or several, such as all versions of one, of which the file's is found.
        source: binary file to read.
        sink: binary file to write; only when this returns has it the whole text.

    Returns:
        Bytes of text.

    Raises:
        FileFormatError: not an encrypted file, or of another key.
        TagMismatchError: the file was changed, cut or extended; nothing of the chunks around is written.
        IhsmError, OSError: as for `encrypt_stream`.
    """
    candidates = [keys] if isinstance(keys, DeviceKey) else list(keys)
    for key in candidates:
        _check("decrypt_stream", key)
    reading = Reading(source)
    start = bytearray(HEADER_BYTES)
    header = Header.parse(bytes(start[: reading.fill(memoryview(start))]))
    for key in candidates:
        if fingerprint(key) == header.fingerprint:
            return _run(key, reading, sink, header, decrypt=True)
    tried = " and ".join(key.facts.name for key in candidates) or "none"
    raise FileFormatError(f"decrypt: the input was encrypted with another key than {tried}")


def fingerprint(key: DeviceKey) -> bytes:
    """What tells files of this key from those of others, 16 bytes; errors as `encrypt_stream`."""
    _check("fingerprint", key)

    def use(resident: Key) -> Procedure[GcmSealed]:
        sealed: GcmSealed = yield FastPath(
            lambda queue, session, timeout_s: queue.submit_gcm(
                session,
                _bulk_id(resident),
                b"",
                decrypt=False,
                iv=FINGERPRINT_NONCE,
                aad=FINGERPRINT_AAD,
                timeout_s=timeout_s,
            )
        )
        return sealed

    sealed = key._handle.run("encrypt", Usage.ENCRYPT, use)
    if sealed.iv != FINGERPRINT_NONCE:
        raise NonceRefusedError("encrypt")
    return sealed.tag


def _run(key: DeviceKey, source: Reading, sink: Sink, header: Header, *, decrypt: bool) -> int:
    pump = Pump(header, source, sink, decrypt=decrypt)

    def use(resident: Key) -> Procedure[None]:
        yield Pumping(pump, _bulk_id(resident))

    try:
        key._handle.run("decrypt" if decrypt else "encrypt", Usage.ENCRYPT, use)
    finally:
        pump.release()
    return pump.text_bytes


def _check(operation: str, key: DeviceKey) -> None:
    if not isinstance(key, DeviceKey):
        raise ArgumentTypeError(operation, "key", f"{type(key).__name__}, must be a key of an Hsm")
    if KINDS[key.facts.kind].family is not Family.GCM:
        raise ArgumentError(operation, "key", f"{key.facts.name} is {key.facts.kind}; files need aes256-gcm")


def _bulk_id(resident: Key) -> int:
    assert resident.bulk_key_id is not None
    return resident.bulk_key_id
