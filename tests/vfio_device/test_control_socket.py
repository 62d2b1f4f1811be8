# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Control sockets: JSON lines in order, errors that name the cause, lines without end, several at once."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.control import MAX_LINE_BYTES, ControlAnswer, ControlErrorCode, ControlRefusal, ControlRequest
from ihsm_device.control_socket import ControlServer, FollowedResult, Result, StreamResult, answer
from ihsm_device.socket_paths import listen
from support.objects import without_collector
from support.waiting import HANG_S, one_round, until


def echo(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments


def refuse(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("count: 7 exceeds 5")


def fail(arguments: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("internal matters")


async def echo_later(arguments: dict[str, Any]) -> dict[str, Any]:
    await one_round()
    return arguments


async def refuse_later(arguments: dict[str, Any]) -> dict[str, Any]:
    await one_round()
    raise ControlRefusal(ControlErrorCode.NO_SUCH_FAULT, "no fault 7")


HANDLERS = {"echo": echo, "refuse": refuse, "fail": fail, "echo-later": echo_later, "refuse-later": refuse_later}


class Waits:
    """A command that waits until it is told to go on; it may be given up instead."""

    def __init__(self) -> None:
        self.begun = 0
        self.given_up = 0
        self.open: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def handler(self, arguments: dict[str, Any]) -> dict[str, Any]:
        gate = asyncio.Event()
        self.open.append((asyncio.get_running_loop(), gate))
        self.begun += 1
        try:
            await gate.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return arguments

    def go_on(self) -> None:
        for loop, gate in self.open:
            loop.call_soon_threadsafe(gate.set)

    def until_begun(self, count: int = 1) -> None:
        until(lambda: self.begun == count, "a command that waits")

    def until_given_up(self, count: int = 1) -> None:
        until(lambda: self.given_up == count, "a wait that is given up")


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def path(socket_folder: Path, waits: Waits) -> Iterator[Path]:
    path = socket_folder / "a.ctl"
    server = ControlServer()
    server.add(listen(path)[0], HANDLERS | {"wait": waits.handler})
    server.start()
    yield path
    server.stop()


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(HANG_S)
    client.connect(str(path))
    return client


def test_answers_come_in_the_order_of_requests(path: Path) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        client.sendall(b"".join(ControlRequest("echo", {"n": n}, id=n).encode() for n in range(50)))
        answers = [ControlAnswer.decode(lines.readline()) for _ in range(50)]
    assert [(entry.id, entry.result) for entry in answers] == [(n, {"n": n}) for n in range(50)]


def test_what_follows_an_answer_comes_after_it(socket_folder: Path) -> None:
    """It is the client's to read then, whatever becomes of the server."""
    found: list[bytes] = []

    def add(arguments: dict[str, Any]) -> dict[str, Any]:
        return FollowedResult({"id": 1}, lambda: found.append(client.recv(99, socket.MSG_DONTWAIT)))

    server = ControlServer()
    server.add(listen(socket_folder / "b.ctl")[0], {"add": add})
    server.start()
    try:
        with connect(socket_folder / "b.ctl") as client:
            client.sendall(ControlRequest("add").encode())
            until(lambda: found, "what follows")
    finally:
        server.stop()
    assert [ControlAnswer.decode(line).result for line in found] == [{"id": 1}]


def test_requests_may_come_in_pieces(path: Path) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        for byte in ControlRequest("echo", {"a": 1}).encode():
            client.sendall(bytes([byte]))
        assert ControlAnswer.decode(lines.readline()).result == {"a": 1}


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        (b'{"command": "nothing", "id": 4}\n', ControlErrorCode.UNKNOWN_COMMAND, "echo"),
        (b"[1]\n", ControlErrorCode.BAD_REQUEST, "object"),
        (b'{"command": 1}\n', ControlErrorCode.BAD_REQUEST, "command"),
        (b'{"command": "echo", "arguments": 3}\n', ControlErrorCode.BAD_REQUEST, "arguments"),
        (b'{"command": "refuse"}\n', ControlErrorCode.BAD_REQUEST, "count: 7 exceeds 5"),
        (b'{"command": "fail"}\n', ControlErrorCode.FAILED, "log"),
        (b'{"command": "refuse-later"}\n', ControlErrorCode.NO_SUCH_FAULT, "no fault 7"),
        (b"\xff\xfe\n", ControlErrorCode.BAD_REQUEST, "JSON"),
        (b'{"command": "echo", "id": NaN}\n', ControlErrorCode.BAD_REQUEST, "JSON"),
        (b'{"command": "echo", "id": -Infinity}\n', ControlErrorCode.BAD_REQUEST, "JSON"),
        (b'{"command": "echo", "id": [1e999]}\n', ControlErrorCode.BAD_REQUEST, "JSON"),
        (b'{"command": "echo", "arguments": {"a": Infinity}}\n', ControlErrorCode.BAD_REQUEST, "JSON"),
        (b'{"command": "echo", "id": ' + b"[" * 990 + b"]" * 990 + b"}\n", ControlErrorCode.BAD_REQUEST, "JSON"),
    ],
)
def test_errors(path: Path, line: bytes, code: ControlErrorCode, text: str) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        client.sendall(line + ControlRequest("echo", {"after": 1}).encode())
        refused = ControlAnswer.decode(lines.readline())
        assert (refused.error_code, text in refused.message) == (code, True), refused
        assert "internal matters" not in refused.message
        assert ControlAnswer.decode(lines.readline()).result == {"after": 1}


def test_line_without_end_is_refused_and_the_connection_closed(path: Path) -> None:
    with connect(path) as client:
        client.sendall(b"x" * (MAX_LINE_BYTES + 2))
        with client.makefile("rb") as lines:
            assert ControlAnswer.decode(lines.readline()).error_code == ControlErrorCode.BAD_REQUEST
            assert lines.readline() == b""
    with connect(path) as client, client.makefile("rb") as lines:
        client.sendall(ControlRequest("echo").encode())
        assert ControlAnswer.decode(lines.readline()).result == {}


def test_one_client_does_not_hold_up_another(path: Path) -> None:
    with connect(path) as silent, connect(path) as client, client.makefile("rb") as lines:
        silent.sendall(b'{"command": ')
        client.sendall(ControlRequest("echo").encode())
        assert ControlAnswer.decode(lines.readline()).result == {}


def test_what_waits_holds_up_its_own_connection_alone(path: Path, waits: Waits) -> None:
    with (
        connect(path) as waiting,
        connect(path) as client,
        waiting.makefile("rb") as answers,
        client.makefile("rb") as lines,
    ):
        waiting.sendall(b"".join(ControlRequest(name, {"n": name}, id=1).encode() for name in ("wait", "echo")))
        waits.until_begun()
        for command in ("echo", "echo-later"):
            client.sendall(ControlRequest(command).encode())
            assert ControlAnswer.decode(lines.readline()).result == {}
        waits.go_on()
        order = [ControlAnswer.decode(answers.readline()).result for _ in range(2)]
    assert order == [{"n": "wait"}, {"n": "echo"}]
    assert waits.given_up == 0


@pytest.mark.parametrize("behind", [0, 1, 50])
def test_a_client_that_goes_away_waits_no_longer(path: Path, waits: Waits, behind: int) -> None:
    with connect(path) as client:
        client.sendall(ControlRequest("wait").encode() + ControlRequest("echo").encode() * behind)
        waits.until_begun()
    waits.until_given_up()


def test_a_client_that_sends_no_more_waits_no_longer(path: Path, waits: Waits) -> None:
    with connect(path) as client:
        client.sendall(ControlRequest("wait").encode())
        waits.until_begun()
        client.shutdown(socket.SHUT_WR)
        waits.until_given_up()
        assert client.recv(1) == b""


def test_a_client_that_sends_no_more_is_told_what_is_there(path: Path) -> None:
    with connect(path) as client, client.makefile("rb") as lines:
        client.sendall(ControlRequest("echo", {"a": 1}).encode() * 3)
        client.shutdown(socket.SHUT_WR)
        assert [ControlAnswer.decode(line).result for line in lines] == [{"a": 1}] * 3


def closes(client: socket.socket, waits: Waits) -> None:
    client.sendall(ControlRequest("echo").encode())
    client.recv(1)


def reads_no_answer(client: socket.socket, waits: Waits) -> None:
    client.shutdown(socket.SHUT_RD)
    client.sendall(ControlRequest("echo").encode() * 50)


def leaves_in_mid_command(client: socket.socket, waits: Waits) -> None:
    client.sendall(ControlRequest("wait").encode() + ControlRequest("echo").encode() * 50)
    waits.until_begun()


def leaves_a_stream(client: socket.socket, waits: Waits) -> None:
    client.sendall(ControlRequest("stream").encode())
    client.recv(1)


def sends_no_end(client: socket.socket, waits: Waits) -> None:
    client.shutdown(socket.SHUT_RD)  # what is wrong with the line is not heard
    client.sendall(b"x" * (MAX_LINE_BYTES + 2))


@pytest.mark.parametrize("leave", [closes, reads_no_answer, leaves_in_mid_command, leaves_a_stream, sends_no_end])
def test_what_a_client_sent_goes_with_it(
    socket_folder: Path, waits: Waits, leave: Callable[[socket.socket, Waits], None]
) -> None:
    """And does not wait for the collector, which counts objects and not the kilobytes that each may have."""

    async def never(transport: asyncio.WriteTransport) -> None:
        await asyncio.get_running_loop().create_future()

    server = ControlServer()
    stream = {"stream": lambda arguments: StreamResult({}, never)}
    server.add(listen(socket_folder / "b.ctl")[0], {**HANDLERS, "wait": waits.handler, **stream})
    server.start()
    try:
        with without_collector() as left:
            before = left(asyncio.StreamReader)
            with connect(socket_folder / "b.ctl") as client:
                leave(client, waits)
            with connect(socket_folder / "b.ctl") as client:  # which is served after the other's end
                client.sendall(ControlRequest("echo").encode())
                client.recv(1)
            until(lambda: left(asyncio.StreamReader) == before, "the end of what was read")
    finally:
        server.stop()


def test_stop_ends_waits(socket_folder: Path, waits: Waits) -> None:
    server = ControlServer()
    server.add(listen(socket_folder / "b.ctl")[0], {"wait": waits.handler})
    server.start()
    with connect(socket_folder / "b.ctl") as first, connect(socket_folder / "b.ctl") as second:
        for client in (first, second):
            client.sendall(ControlRequest("wait").encode())
        waits.until_begun(2)
        server.stop()
        waits.until_given_up(2)
        assert [client.recv(1) for client in (first, second)] == [b"", b""]


def test_stop_ends_open_connections(socket_folder: Path) -> None:
    server = ControlServer()
    server.add(listen(socket_folder / "b.ctl")[0], HANDLERS)
    server.start()
    with connect(socket_folder / "b.ctl") as client:
        client.sendall(ControlRequest("echo").encode())
        assert client.recv(4096)
        server.stop()
        assert client.recv(4096) == b""
    assert not any(thread.name == "control" for thread in threading.enumerate())


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda record: json.dumps(record).encode(),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("echo"),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["id", "command", "arguments", "x"]), inner, max_size=4)
                ),
                max_leaves=8,
            ),
        ),
    )
)
def test_any_line_gets_one_answer(line: bytes) -> None:
    async def awaited(result: Awaitable[Result]) -> Result:
        return await result

    encoded = asyncio.run(answer(line, HANDLERS, awaited)).encode()
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    ControlAnswer.decode(encoded)
