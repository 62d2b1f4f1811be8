# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Control sockets: JSON lines in order, errors that name the cause, lines without end, several at once."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.control import MAX_LINE_BYTES, ControlAnswer, ControlErrorCode, ControlRequest
from ihsm_device.control_socket import ControlServer, answer
from ihsm_device.socket_paths import listen
from support.waiting import HANG_S


def echo(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments


def refuse(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("count: 7 exceeds 5")


def fail(arguments: dict[str, Any]) -> dict[str, Any]:
    raise RuntimeError("internal matters")


HANDLERS = {"echo": echo, "refuse": refuse, "fail": fail}


@pytest.fixture
def path(socket_folder: Path) -> Iterator[Path]:
    path = socket_folder / "a.ctl"
    server = ControlServer()
    server.add(listen(path)[0], HANDLERS)
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
    encoded = answer(line, HANDLERS).encode()
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    ControlAnswer.decode(encoded)
