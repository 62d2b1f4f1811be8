# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a server answers: a typed error or a right answer, and never a hang or a leaked descriptor."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import VfioUserFunction
from ihsm.bus.vfio_user_wire import FLAG_ERROR, HEADER, TYPE_REPLY, VERSION, Command
from ihsm.errors import (
    BusError,
    BusTimeoutError,
    ConnectionLostError,
    DeviceNotFoundError,
    ProtocolError,
    RequestRefusedError,
)
from support.descriptors import open_descriptors
from support.scripted_server import Answer, Last, honest, reply, scripted_server
from support.waiting import HANG_S

SILENCE_S = 0.3
"""How long a server is waited for that will not answer."""


def answering(target: Command, raw: bytes | None = None, **fields: int) -> Answer:
    """Honest but for one command: raw bytes instead, or changed header fields."""

    def answer(message_id: int, asked: int, payload: bytes) -> bytes:
        good = honest(message_id, asked, payload)
        if asked != target:
            return good
        if raw is not None:
            return raw
        values = dict(zip(("id", "command", "size", "flags", "error"), HEADER.unpack_from(good), strict=True)) | fields
        return HEADER.pack(*values.values()) + good[HEADER.size :]

    return answer


def test_the_honest_answers_work(tmp_path: Path) -> None:
    with scripted_server(tmp_path, honest) as path, VfioUserFunction(path, timeout_s=HANG_S) as function:
        assert function.read_bar(0, 16, 4) == 0x5A5A5A5A
        assert function.vectors == 32
        assert function.map_bar(0) is None


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (answering(Command.VERSION, b""), BusTimeoutError),
        (answering(Command.VERSION, b"\0" * 7), BusTimeoutError),
        (answering(Command.VERSION, b"HTTP/1.1 400 Bad Request\r\n\r\n"), ProtocolError),
        (answering(Command.VERSION, size=15), ProtocolError),
        (answering(Command.VERSION, size=2**31), ProtocolError),
        (answering(Command.VERSION, size=100_000), BusTimeoutError),
        (answering(Command.VERSION, id=9), ProtocolError),
        (answering(Command.VERSION, command=4), ProtocolError),
        (answering(Command.VERSION, flags=3), ProtocolError),
        (answering(Command.VERSION, flags=TYPE_REPLY | FLAG_ERROR, error=22), RequestRefusedError),
        (answering(Command.DEVICE_GET_INFO, id=9), ProtocolError),
        (answering(Command.DEVICE_GET_REGION_INFO, flags=TYPE_REPLY | FLAG_ERROR), RequestRefusedError),
        (answering(Command.DEVICE_GET_IRQ_INFO, b"x" * 64), ProtocolError),
    ],
)
def test_a_bad_answer_while_attaching_is_a_typed_error(tmp_path: Path, answer: Answer, error: type[BusError]) -> None:
    with scripted_server(tmp_path, answer) as path, pytest.raises(error):
        VfioUserFunction(path, timeout_s=SILENCE_S if error is BusTimeoutError else HANG_S)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0",
        b"{}\0",
        b'{"capabilities":{}}\0',
        b'{"capabilities":{"max_msg_fds":1,"twin_socket":{"supported":false}}}\0',
    ],
)
def test_capabilities_are_optional(tmp_path: Path, text: bytes) -> None:
    def answer(message_id: int, asked: int, payload: bytes) -> bytes:
        if asked == Command.VERSION:
            return reply(message_id, asked, VERSION.pack(0, 0) + text)
        return honest(message_id, asked, payload)

    with scripted_server(tmp_path, answer) as path:
        VfioUserFunction(path, timeout_s=HANG_S).close()


@pytest.mark.parametrize(
    "text", [b"[]\0", b"{", b'{"capabilities":[]}', b'{"capabilities":{"max_msg_fds":"8"}}', b"\xff"]
)
def test_capabilities_that_are_none_are_refused(tmp_path: Path, text: bytes) -> None:
    def answer(message_id: int, asked: int, payload: bytes) -> bytes:
        return reply(message_id, asked, VERSION.pack(0, 0) + text)

    with scripted_server(tmp_path, answer) as path, pytest.raises(ProtocolError):
        VfioUserFunction(path, timeout_s=HANG_S)


def test_another_major_version_is_refused(tmp_path: Path) -> None:
    def answer(message_id: int, asked: int, payload: bytes) -> bytes:
        return reply(message_id, asked, VERSION.pack(1, 0))

    with scripted_server(tmp_path, answer) as path, pytest.raises(ProtocolError, match="version 1"):
        VfioUserFunction(path, timeout_s=HANG_S)


def test_a_command_of_the_server_between_request_and_reply_is_refused_and_passed_over(tmp_path: Path) -> None:
    def answer(message_id: int, asked: int, payload: bytes) -> bytes:
        dma_read = HEADER.pack(77, Command.DMA_READ, HEADER.size + 16, 0, 0) + bytes(16)
        return (dma_read if asked == Command.REGION_READ else b"") + honest(message_id, asked, payload)

    with scripted_server(tmp_path, answer) as path, VfioUserFunction(path, timeout_s=HANG_S) as function:
        assert function.read_bar(0, 0, 1) == 0x5A
        assert function.read_bar(0, 0, 2) == 0x5A5A


def test_after_a_broken_answer_the_function_stays_closed(tmp_path: Path) -> None:
    with (
        scripted_server(tmp_path, answering(Command.REGION_READ, id=1)) as path,
        VfioUserFunction(path, timeout_s=HANG_S) as function,
    ):
        with pytest.raises(ProtocolError):
            function.read_bar(0, 0, 4)
        with pytest.raises(ConnectionLostError):
            function.read_bar(0, 0, 4)
        with pytest.raises(ConnectionLostError):
            function.write_bar(0, 0, 4, 0, posted=True)


def test_corrupted_answers_never_hang(tmp_path: Path) -> None:
    @given(
        command=st.sampled_from(
            [Command.VERSION, Command.DEVICE_GET_INFO, Command.DEVICE_GET_REGION_INFO, Command.REGION_READ]
        ),
        position=st.integers(0, 60),
        value=st.integers(0, 255),
        cut=st.one_of(st.none(), st.integers(0, 60)),
    )
    @settings(max_examples=80)
    def never_hang(command: int, position: int, value: int, cut: int | None) -> None:
        corrupted = []

        def answer(message_id: int, asked: int, payload: bytes) -> bytes | Last:
            good = bytearray(honest(message_id, asked, payload))
            if asked != command:
                return bytes(good)
            if position < len(good):
                good[position] = value
            del good[len(good) if cut is None else cut :]
            corrupted.append(bytes(good))
            # Whoever waits for the rest sees the end, so that no timeout has to be short.
            return Last(bytes(good))

        with scripted_server(tmp_path, answer) as path:
            try:
                with VfioUserFunction(path, timeout_s=HANG_S) as function:
                    function.read_bar(0, 0, 4)
            except BusTimeoutError:
                raise
            except BusError:
                pass
        assert corrupted

    files = open_descriptors()  # of all examples at once: late in a run each count takes long
    never_hang()
    assert open_descriptors() == files


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError, match="No such file"):
        VfioUserFunction(tmp_path / "nothing")
    with pytest.raises(DeviceNotFoundError, match="exceeds 107"):
        VfioUserFunction(tmp_path / ("x" * 200))
