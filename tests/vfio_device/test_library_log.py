# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the log has of libvfio-user: no error for a client that has left, every error for one that is refused."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus.vfio_user_wire import VERSION, Command, message
from ihsm_device import vfu

Logged = list[tuple[int, str]]


@pytest.fixture
def logged() -> Logged:
    return []


@pytest.fixture
def context(socket_folder: Path, logged: Logged) -> Iterator[vfu.Context]:
    context = vfu.Context(str(socket_folder / "s"), log=lambda level, text: logged.append((level, text)))
    context.realize()
    yield context
    context.close()


def greeting(major: int = 0) -> bytes:
    """A client's first message."""
    return message(Command.VERSION, VERSION.pack(major, 0), 1)


def meet(context: vfu.Context, path: Path, sent: bytes) -> None:
    """A client that sends something and leaves, before the device looks for one."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(sent)
    assert not context.attach(timeout_s=0.01)


@pytest.mark.parametrize("sent", [b"", greeting()[:7], greeting()], ids=["nothing", "a part", "a greeting"])
def test_a_client_that_left_while_it_connected_is_no_error(
    context: vfu.Context, socket_folder: Path, logged: Logged, sent: bytes
) -> None:
    """One line, whether the library missed it as it received the greeting or as it answered."""
    meet(context, socket_folder / "s", sent)
    assert [(level, text.partition(":")[0]) for level, text in logged] == [
        (logging.INFO, "client gone before it was attached")
    ]


def test_what_the_library_refuses_is_an_error(context: vfu.Context, socket_folder: Path, logged: Logged) -> None:
    """Though the client has left as well."""
    meet(context, socket_folder / "s", greeting(major=7))
    assert (logging.ERROR, "unsupported client major 7 (must be 0)") in logged
    assert logged[-1] == (logging.INFO, "client refused: Invalid argument")


def test_nothing_is_kept_back_afterwards(context: vfu.Context, socket_folder: Path, logged: Logged) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_folder / "s"))
        client.sendall(greeting())
        assert context.attach()
        client.sendall(message(Command.DMA_MAP, b"", 2))
        client.shutdown(socket.SHUT_WR)
        assert context.run() is vfu.RunResult.DISCONNECTED
    assert any(level == logging.ERROR for level, _ in logged)
