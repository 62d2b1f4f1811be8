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

from ihsm.control import PROTOCOL, ControlClient
from ihsm.errors import ControlError, DeviceNotFoundError
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
