# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Encrypted files: pyca's AESGCM writes and reads the same format, and nothing that was changed decrypts."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ihsm.api import pumping
from ihsm.api.errors import NonceRefusedError, TagMismatchError
from ihsm.api.file_format import (
    CHUNK_BYTES,
    HEADER_BYTES,
    MAX_CHUNKS,
    RECORD_BYTES,
    TAG_BYTES,
    FileFormatError,
    Header,
)
from ihsm.api.files import decrypt_stream, encrypt_stream, fingerprint
from ihsm.api.hsm import Hsm
from ihsm.driver import DriverOptions
from ihsm.errors import ArgumentError, ArgumentTypeError

KEY = bytes(range(32))
SIZES = (0, 1, 15, 16, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 8 * CHUNK_BYTES, 70 * CHUNK_BYTES + 5)


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with Hsm.private() as hsm:
        hsm.import_key("known", KEY, kind="aes256-gcm")
        hsm.generate("other", "aes256-gcm")
        hsm.generate("sign", "p256")
        yield hsm


@pytest.fixture(scope="module")
def key(hsm: Hsm) -> Any:
    return hsm["known"]


def nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + (2 * number + last).to_bytes(4, "big")


def known_fingerprint(key: bytes) -> bytes:
    return AESGCM(key).encrypt(b"\xff" * 12, b"", bytes(32))


def sealed_by_pyca(key: bytes, text: bytes, prefix: bytes = b"8 bytes.") -> bytes:
    """The format as its description has it."""
    header = b"\x89ihsm\n\x01\x10" + prefix + known_fingerprint(key)
    chunks = [text[start : start + 65536] for start in range(0, len(text), 65536)] or [b""]
    cipher, last = AESGCM(key), len(chunks) - 1
    sealed = (cipher.encrypt(nonce(prefix, n, n == last), chunk, header) for n, chunk in enumerate(chunks))
    return header + b"".join(sealed)


def opened_by_pyca(key: bytes, sealed: bytes) -> bytes:
    header, body = sealed[:32], sealed[32:]
    records = [body[start : start + 65552] for start in range(0, len(body), 65552)]
    cipher, last = AESGCM(key), len(records) - 1
    opened = (cipher.decrypt(nonce(header[8:16], n, n == last), record, header) for n, record in enumerate(records))
    return b"".join(opened)


def encrypted(key: Any, text: bytes) -> bytes:
    sink = io.BytesIO()
    assert encrypt_stream(key, io.BytesIO(text), sink) == len(text)
    return sink.getvalue()


def decrypted(key: Any, sealed: bytes) -> bytes:
    sink = io.BytesIO()
    assert decrypt_stream(key, io.BytesIO(sealed), sink) == len(sink.getvalue())
    return sink.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_pyca_reads_what_is_written_and_the_other_way_round(key: Any, size: int) -> None:
    text = os.urandom(size)
    sealed = encrypted(key, text)
    assert opened_by_pyca(KEY, sealed) == text
    assert decrypted(key, sealed) == text
    assert decrypted(key, sealed_by_pyca(KEY, text)) == text


def test_a_file_never_has_the_prefix_of_another(key: Any) -> None:
    assert len({encrypted(key, b"same")[8:16] for _ in range(20)}) == 20


TEXT = os.urandom(3 * CHUNK_BYTES + 100)
SEALED = sealed_by_pyca(KEY, TEXT)
RECORDS = [SEALED[start : start + RECORD_BYTES] for start in range(HEADER_BYTES, len(SEALED), RECORD_BYTES)]
OTHER = sealed_by_pyca(KEY, TEXT, b"8 others")


def flipped(position: int) -> bytes:
    changed = bytearray(SEALED)
    changed[position] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        pytest.param(SEALED[:-1], TagMismatchError, id="cut"),
        pytest.param(SEALED[:-100], FileFormatError, id="cut to less than a tag"),
        pytest.param(SEALED[: HEADER_BYTES + 3 * RECORD_BYTES], TagMismatchError, id="cut between chunks"),
        pytest.param(SEALED[:HEADER_BYTES], FileFormatError, id="no chunk"),
        pytest.param(SEALED[:31], FileFormatError, id="half a header"),
        pytest.param(b"", FileFormatError, id="nothing"),
        pytest.param(SEALED + b"x", TagMismatchError, id="appended"),
        pytest.param(SEALED + RECORDS[3], TagMismatchError, id="a chunk appended"),
        pytest.param(SEALED[:32] + b"".join(RECORDS[i] for i in (1, 0, 2, 3)), TagMismatchError, id="reordered"),
        pytest.param(SEALED[:32] + b"".join(RECORDS[i] for i in (0, 2, 3)), TagMismatchError, id="left out"),
        pytest.param(SEALED[:32] + b"".join(RECORDS[i] for i in (0, 0, 1, 2, 3)), TagMismatchError, id="repeated"),
        pytest.param(SEALED[:32] + OTHER[32:], TagMismatchError, id="another file's chunks"),
        pytest.param(OTHER[:32] + SEALED[32:], TagMismatchError, id="another file's header"),
        pytest.param(flipped(0), FileFormatError, id="magic"),
        pytest.param(flipped(6), FileFormatError, id="format"),
        pytest.param(flipped(7), FileFormatError, id="chunk size"),
        pytest.param(flipped(8), TagMismatchError, id="prefix"),
        pytest.param(flipped(16), FileFormatError, id="fingerprint"),
        pytest.param(flipped(32), TagMismatchError, id="first byte"),
        pytest.param(flipped(32 + CHUNK_BYTES), TagMismatchError, id="first tag"),
        pytest.param(flipped(len(SEALED) - 1), TagMismatchError, id="last tag"),
        pytest.param(SEALED[:8] + b"\xff" * 8 + SEALED[16:], FileFormatError, id="prefix of no file"),
    ],
)
def test_what_was_changed_does_not_decrypt(key: Any, changed: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decrypted(key, changed)


def test_an_empty_chunk_behind_others_is_not_taken(key: Any) -> None:
    """Though its tag is right: a text has one form alone."""
    header = SEALED[:32]
    full = AESGCM(KEY).encrypt(nonce(header[8:16], 0, False), TEXT[:CHUNK_BYTES], header)
    empty = AESGCM(KEY).encrypt(nonce(header[8:16], 1, True), b"", header)
    with pytest.raises(FileFormatError):
        decrypted(key, header + full + empty)


def test_only_what_has_verified_is_written(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumping, "MOST_CHUNKS", 1)
    sink = io.BytesIO()
    with pytest.raises(TagMismatchError, match="chunk 3 ") as raised:
        decrypt_stream(key, io.BytesIO(flipped(HEADER_BYTES + 2 * RECORD_BYTES)), sink)
    assert isinstance(raised.value, InvalidTag)
    assert sink.getvalue() == TEXT[: 2 * CHUNK_BYTES]


def test_the_key_of_a_file_is_found_among_several(hsm: Hsm, key: Any) -> None:
    assert fingerprint(key) == known_fingerprint(KEY)
    with pytest.raises(FileFormatError, match="another key than key 'other'"):
        decrypted(hsm["other"], SEALED)
    assert decrypted([hsm["other"], key], SEALED) == TEXT
    with pytest.raises(FileFormatError, match="none"):
        decrypted([], SEALED)


def test_what_no_file_is_encrypted_with(hsm: Hsm) -> None:
    sink = io.BytesIO()
    with pytest.raises(ArgumentError, match="aes256-gcm"):
        encrypt_stream(hsm["sign"], io.BytesIO(b"text"), sink)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        encrypt_stream(b"key", io.BytesIO(b"text"), sink)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        decrypted([b"key"], SEALED)
    assert sink.getvalue() == b""


class Trickle:
    """A source that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, most: int) -> None:
        self.rest = memoryview(data)
        self.most = most

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.most, len(self.rest))
        buffer[:count] = self.rest[:count]
        self.rest = self.rest[count:]
        return count


class Sip:
    """A sink that takes a few bytes at a time, as an unbuffered file may."""

    def __init__(self, most: int) -> None:
        self.taken = bytearray()
        self.most = most

    def write(self, data: Any) -> int:
        part = bytes(data[: self.most])
        self.taken += part
        return len(part)


@pytest.mark.parametrize("most", [1000, CHUNK_BYTES, RECORD_BYTES + 1])
def test_sources_and_sinks_in_pieces(key: Any, most: int) -> None:
    sealed, text = Sip(most), Sip(most)
    encrypt_stream(key, Trickle(TEXT, most), sealed)
    decrypt_stream(key, Trickle(bytes(sealed.taken), most), text)
    assert bytes(text.taken) == TEXT


class Failing:
    """A sink that is full after some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: Any) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("room", [0, 100, 4 * CHUNK_BYTES])
def test_after_a_failure_no_memory_is_missing(hsm: Hsm, key: Any, room: int) -> None:
    free = hsm.connection.link.device.arena.free_bytes
    with pytest.raises(OSError, match="No space left"):
        encrypt_stream(key, io.BytesIO(bytes(200 * CHUNK_BYTES)), Failing(room))
    with pytest.raises(TagMismatchError):
        decrypted(key, flipped(40))
    with pytest.raises(FileFormatError):
        decrypted(key, SEALED[:-100])
    assert hsm.connection.link.device.arena.free_bytes == free
    assert hsm.connection.link.device.aes_queues[0].outstanding == 0
    assert decrypted(key, encrypted(key, TEXT)) == TEXT


def test_memory_is_constant(hsm: Hsm, key: Any) -> None:
    """The size of a text changes nothing; and little memory is enough."""
    arena = hsm.connection.link.device.arena
    least: list[int] = []

    class Watching:
        def write(self, data: Any) -> None:
            least.append(arena.free_bytes)

    with arena.allocate(arena.free_bytes - 3 * 2 * 70000 - 4096):
        encrypt_stream(key, io.BytesIO(bytes(40 * CHUNK_BYTES)), Watching())
        assert decrypted(key, SEALED) == TEXT
    encrypt_stream(key, io.BytesIO(bytes(5 * CHUNK_BYTES)), Watching())
    few = min(least[42:])
    encrypt_stream(key, io.BytesIO(bytes(100 * CHUNK_BYTES)), Watching())
    assert min(least[42:]) == few


class Losing:
    """A source in whose middle the device is lost."""

    def __init__(self, data: bytes, at: int, lose: Callable[[], object]) -> None:
        self.data, self.at, self.lose, self.read = memoryview(data), at, lose, 0

    def readinto(self, buffer: Any) -> int:
        if self.read <= self.at < self.read + len(buffer):
            self.lose()
        count = min(len(buffer), len(self.data) - self.read)
        buffer[:count] = self.data[self.read : self.read + count]
        self.read += count
        return count


def ways_to_lose(hsm: Hsm) -> dict[str, Callable[[], object]]:
    device: Any = hsm.connection._source
    pid = device._device.pid
    return {"reset": hsm.connection.link.device.reset, "killed": lambda: os.kill(pid, signal.SIGKILL)}


@pytest.mark.parametrize("chunk", [0, 50])
@pytest.mark.parametrize("how", ["reset", "killed"])
def test_a_device_that_is_lost_in_the_middle(how: str, chunk: int) -> None:
    text = os.urandom(100 * CHUNK_BYTES + 7)
    with Hsm.private(options=DriverOptions(buffer_bytes=2 << 20)) as hsm:
        key: Any = hsm.import_key("known", KEY, kind="aes256-gcm")
        sealed, back = io.BytesIO(), io.BytesIO()
        lose = ways_to_lose(hsm)[how]
        assert encrypt_stream(key, Losing(text, chunk * CHUNK_BYTES + 5, lose), sealed) == len(text)
        assert opened_by_pyca(KEY, sealed.getvalue()) == text
        lose = ways_to_lose(hsm)[how]
        decrypt_stream(key, Losing(sealed.getvalue(), chunk * CHUNK_BYTES + 50, lose), back)
        assert back.getvalue() == text


def test_several_threads(key: Any) -> None:
    """Each has memory of its own, as much as is left."""
    results: dict[int, bytes] = {}
    texts = [os.urandom(10 * CHUNK_BYTES + number) for number in range(3)]

    def work(number: int) -> None:
        results[number] = decrypted(key, encrypted(key, texts[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[number] for number in range(3)] == texts


def test_a_device_that_draws_its_own_ivs_is_refused(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the file could never be decrypted: the nonces are not in it."""
    sink = io.BytesIO()
    monkeypatch.setattr(pumping, "failed", lambda completions: completions["iv"].__setitem__(0, 7) or [])
    with pytest.raises(NonceRefusedError):
        encrypt_stream(key, io.BytesIO(b"text"), sink)
    assert len(sink.getvalue()) == HEADER_BYTES


@given(
    st.binary(min_size=8, max_size=8).filter(lambda prefix: prefix != b"\xff" * 8),
    st.binary(min_size=16, max_size=16),
    st.integers(0, MAX_CHUNKS - 40),
    st.integers(1, 40),
    st.booleans(),
)
def test_headers_and_nonces(prefix: bytes, print_: bytes, first: int, count: int, last: bool) -> None:
    header = Header(prefix, print_)
    assert Header.parse(header.encode()) == header
    expected = [nonce(prefix, first + n, last and n == count - 1) for n in range(count)]
    assert [bytes(row) for row in header.nonces(first, count, last=last)] == expected


def test_the_last_possible_nonce() -> None:
    row = Header(bytes(8), bytes(16)).nonces(MAX_CHUNKS - 1, 1, last=True)
    assert bytes(row[0]) == bytes(8) + b"\xff" * 4


@given(st.binary(max_size=40))
def test_no_header(data: bytes) -> None:
    with pytest.raises(FileFormatError):
        Header.parse(data)


def test_sizes() -> None:
    assert RECORD_BYTES == CHUNK_BYTES + TAG_BYTES
    assert HEADER_BYTES % 32 == 0, "associated data of another length are padded by the device's rules"
