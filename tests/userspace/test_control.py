# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The control client against sockets that answer well, badly, or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus.holder import find_holder, find_prohibition
from ihsm.control import ControlClient
from ihsm.errors import PROTOCOL, ControlError, DeviceForbiddenError, DeviceNotFoundError
from ihsm_abi.control import MAX_LINE_BYTES, SUFFIX, ControlAnswer, ControlErrorCode, ControlRequest
from support.waiting import HANG_S, ended


@contextlib.contextmanager
def answering(folder: Path, answer: Callable[[ControlRequest], bytes]) -> Iterator[Path]:
    """One client, each of whose lines is answered; an empty answer closes the connection."""
    path = folder / "f.sock"
    control = Path(os.fspath(path) + SUFFIX)
    control.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(control))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    for line in lines:
                        data = answer(ControlRequest.decode(line))
                        if not data:
                            return
                        connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
    ended(thread)


def test_results_and_refusals(tmp_path: Path) -> None:
    def answer(request: ControlRequest) -> bytes:
        if request.command == "status":
            return ControlAnswer({"pid": 1, **request.arguments}, id=request.id).encode()
        return ControlAnswer(error_code=ControlErrorCode.UNKNOWN_COMMAND, message="no such", id=request.id).encode()

    with answering(tmp_path, answer) as path, ControlClient(path) as client:
        assert client.status() == {"pid": 1}
        assert client.call("status", a=[1]) == {"pid": 1, "a": [1]}
        with pytest.raises(ControlError, match="unknown-command: no such"):
            client.call("dance")


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"{}\n", b"nonsense\n", b"x" * (MAX_LINE_BYTES + 10), b'{"id":99,"ok":true,"result":{}}\n']
)
def test_answers_that_are_none(tmp_path: Path, raw: bytes) -> None:
    with answering(tmp_path, lambda _: raw) as path, ControlClient(path, timeout_s=HANG_S) as client:
        with pytest.raises(ControlError) as caught:
            client.status()
        assert caught.value.code == PROTOCOL


@given(st.binary(min_size=1, max_size=80))
@settings(max_examples=40)
def test_any_line_is_an_answer_or_an_error(tmp_path: Path, raw: bytes) -> None:
    with (
        answering(tmp_path, lambda _: raw + b"\n") as path,
        ControlClient(path, timeout_s=HANG_S) as client,
        contextlib.suppress(ControlError),
    ):
        client.status()


@contextlib.contextmanager
def turning_away(folder: Path, code: ControlErrorCode, text: str, *, hears: bool) -> Iterator[Path]:
    """Each client is told why it is refused, and hung up on: before its request, or with the request unread."""
    path = folder / "t.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path) + SUFFIX)
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        if hears:
                            connection.recv(1, socket.MSG_PEEK)
                        connection.sendall(ControlAnswer(error_code=code, message=text).encode())
                    refused.release()

        refused = threading.Semaphore(0)
        encode = ControlRequest.encode

        def encode_when_refused(request: ControlRequest) -> bytes:
            """Clients are connected when they make their request."""
            assert refused.acquire(timeout=HANG_S)
            return encode(request)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with pytest.MonkeyPatch.context() as patched:
            if not hears:
                patched.setattr(ControlRequest, "encode", encode_when_refused)
            yield path
        listener.shutdown(socket.SHUT_RDWR)
    ended(thread)


@pytest.mark.parametrize("hears", [False, True], ids=["broken pipe", "reset"])
def test_why_a_connection_is_refused_is_told(tmp_path: Path, hears: bool) -> None:
    """Whether the server has hung up before the request could be written, or with the request unread."""
    too_many = ControlErrorCode.TOO_MANY_CONNECTIONS
    with turning_away(tmp_path, too_many, "at most 64", hears=hears) as path, ControlClient(path) as client:
        with pytest.raises(ControlError) as caught:
            client.status()
        assert (caught.value.code, str(caught.value)) == (too_many, "too-many-connections: at most 64")


@pytest.mark.parametrize("hears", [False, True], ids=["broken pipe", "reset"])
def test_a_user_who_is_not_allowed_is_told(tmp_path: Path, hears: bool) -> None:
    said = "user 7 may not use the device"
    with turning_away(tmp_path, ControlErrorCode.NOT_ALLOWED, said, hears=hears) as path:
        with ControlClient(path) as client, pytest.raises(DeviceForbiddenError, match=f"ctl: {said}$") as caught:
            client.status()
        assert caught.value.exit_code == DeviceNotFoundError.exit_code
        assert find_prohibition(path) == said
        assert find_holder(path) is None


def test_silence_times_out(tmp_path: Path) -> None:
    with (
        answering(tmp_path, lambda _: b"no newline") as path,
        ControlClient(path, timeout_s=0.1) as client,
        pytest.raises(ControlError, match=r"no answer within 0\.1 s"),
    ):
        client.status()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError):
        ControlClient(tmp_path / "none")
    with pytest.raises(DeviceNotFoundError, match="longer"):
        ControlClient(tmp_path / ("x" * 120))
