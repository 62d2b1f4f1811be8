# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Lines of the control socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.control import (
    MAX_LINE_BYTES,
    ControlAnswer,
    ControlErrorCode,
    ControlProtocolError,
    ControlRequest,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=4)


@given(st.text(), json_objects, st.none() | st.integers() | st.text())
def test_request_round_trip(command: str, arguments: dict[str, object], request_id: object) -> None:
    request = ControlRequest(command, arguments, request_id)
    line = request.encode()
    assert line.count(b"\n") == 1
    assert ControlRequest.decode(line) == request


@given(json_objects)
def test_answer_round_trip(result: dict[str, object]) -> None:
    for answer in (ControlAnswer(result=result, id=1), ControlAnswer(error_code="failed", message="why")):
        assert ControlAnswer.decode(answer.encode()) == answer


@given(st.binary())
def test_garbage_is_refused(line: bytes) -> None:
    for decode in (ControlRequest.decode, ControlAnswer.decode):
        with pytest.raises(ControlProtocolError):
            decode(line)


def test_a_line_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ControlProtocolError, match="exceeds 65536"):
        ControlRequest.decode(b" " * (MAX_LINE_BYTES + 1))


@pytest.mark.parametrize(
    "answer",
    [
        ControlAnswer(error_code=ControlErrorCode.BAD_REQUEST, message="\u00e9" * MAX_LINE_BYTES, id=5),
        ControlAnswer(result={}, id="\u00e9" * MAX_LINE_BYTES),
        ControlAnswer(result={"text": "\u00e9" * MAX_LINE_BYTES}, id=5),
    ],
)
def test_no_answer_is_beyond_the_limit(answer: ControlAnswer) -> None:
    """Whatever of a request it repeats; its characters may take more bytes in an answer than they had."""
    line = answer.encode()
    assert len(line) <= MAX_LINE_BYTES
    read = ControlAnswer.decode(line)
    assert read.error_code is not None
    assert (read.id, read.error_code) in [(5, answer.error_code), (None, ControlErrorCode.FAILED)]
