# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's log on its way from a guest: what is new since a mark."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ihsm.guest.log_port import LogPort
from support.waiting import HANG_S


@pytest.fixture
def port() -> Iterator[tuple[LogPort, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours:
        log = LogPort(ours)
        with theirs:
            yield log, theirs
        log.join()


def record(number: int, text: str) -> bytes:
    return f"6,{number},{number},-;{text}\n".encode()


def test_lines_after_the_last_such_mark_without_the_marks(port: tuple[LogPort, socket.socket]) -> None:
    log, guest = port
    texts = ["boot", "ihsm: begin 1", "old", "ihsm: end 1", "ihsm: begin 1", "new", "ihsm: end 2", "after"]
    # Read again from its beginning, as when records were lost, and cut anywhere.
    whole = b"".join(record(number, text) for number, text in enumerate(texts))
    for at in range(0, len(whole * 2), 7):
        guest.sendall((whole * 2)[at : at + 7])
    assert log.wait_for("end 2", HANG_S)
    guest.shutdown(socket.SHUT_WR)
    log.join()
    assert [line.text for line in log.since("begin 1")] == ["new", "after"]
    assert log.since("begin 7") == []


def test_a_mark_that_never_comes_is_not_waited_for_beyond_the_log(port: tuple[LogPort, socket.socket]) -> None:
    log, guest = port
    guest.sendall(record(1, "ihsm: end 11"))
    guest.shutdown(socket.SHUT_WR)
    assert not log.wait_for("end 1", HANG_S)
    assert log.wait_for("end 11", HANG_S)


def test_a_mark_that_does_not_come_in_time(port: tuple[LogPort, socket.socket]) -> None:
    log, _ = port
    assert not log.wait_for("end 1", 0.01)
