# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The end mark that separates a command's output from the silence after it."""

from __future__ import annotations

import io
import socket
import threading

from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest.runner import _carry_out
from support.waiting import ended

MARK = b"\0end-0123\n"


@given(st.binary(max_size=200), st.lists(st.integers(1, 30)), st.sampled_from([b"", b"\0", b"\0end-", MARK[:-1]]))
def test_output_arrives_up_to_the_mark_however_it_is_cut(data: bytes, cuts: list[int], almost: bytes) -> None:
    data = data.replace(MARK, b"") + almost
    ours, theirs = socket.socketpair()
    sink = io.BytesIO()
    with ours, theirs:
        carrier = threading.Thread(target=_carry_out, args=(ours, sink, MARK))
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
        _carry_out(ours, sink, MARK)
    assert sink.getvalue() == b"half a mark" + MARK[:4]
