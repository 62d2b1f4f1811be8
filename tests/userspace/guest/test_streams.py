# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The end mark that separates a command's output from the silence after it."""

from __future__ import annotations

import errno
import io
import os
import socket
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest.streams import carry_in, carry_out
from support.waiting import ended

MARK = b"\0end-0123\n"


@given(st.binary(max_size=200), st.lists(st.integers(1, 30)), st.sampled_from([b"", b"\0", b"\0end-", MARK[:-1]]))
def test_output_arrives_up_to_the_mark_however_it_is_cut(data: bytes, cuts: list[int], almost: bytes) -> None:
    data = data.replace(MARK, b"") + almost
    ours, theirs = socket.socketpair()
    sink = io.BytesIO()
    with ours, theirs:
        carrier = threading.Thread(target=carry_out, args=(ours, sink, MARK, []))
        carrier.start()
        rest = data + MARK + b"too late"
        for cut in cuts:
            theirs.sendall(rest[:cut])
            rest = rest[cut:]
        theirs.sendall(rest)
        ended(carrier)
    assert sink.getvalue() == data


def test_output_without_a_mark_ends_with_the_connection() -> None:
    ours, theirs = socket.socketpair()
    sink = io.BytesIO()
    with ours:
        with theirs:
            theirs.sendall(b"half a mark" + MARK[:4])
        carry_out(ours, sink, MARK, [])
    assert sink.getvalue() == b"half a mark" + MARK[:4]


def test_output_that_cannot_be_written_is_taken_all_the_same_and_told() -> None:
    """A sink that is full must not hold the guest up, and its loss must not look like success."""
    ours, theirs = socket.socketpair()
    lost: list[OSError] = []
    with ours, theirs, open("/dev/full", "wb", buffering=0) as full:
        carrier = threading.Thread(target=carry_out, args=(ours, full, MARK, lost))
        carrier.start()
        theirs.sendall(b"one")
        theirs.sendall(b"two" + MARK)
        ended(carrier)
    assert {error.errno for error in lost} == {errno.ENOSPC}


def test_output_to_what_has_been_closed_is_taken_all_the_same() -> None:
    ours, theirs = socket.socketpair()
    lost: list[OSError] = []
    sink = io.BytesIO()
    sink.close()
    with ours, theirs:
        theirs.sendall(b"one" + MARK)
        carry_out(ours, sink, MARK, lost)
    assert lost == []


def test_a_folder_for_standard_input_is_an_empty_one(tmp_path: Path) -> None:
    class Folder(io.BytesIO):
        def fileno(self) -> int:
            return descriptor

    descriptor = os.open(tmp_path, os.O_RDONLY)
    listening = threading.Event()
    listening.set()
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs:
            carry_in(ours, Folder(), listening)
            assert theirs.recv(1) == b""
    finally:
        os.close(descriptor)
