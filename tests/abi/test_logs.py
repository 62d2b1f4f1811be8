# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Log lines: one for each record, with an exception's name; its traceback only for those who ask."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from ihsm_abi import logs


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(logs.TRACEBACK_VARIABLE, raising=False)
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.WARNING)
    yield
    logging.getLogger().setLevel(before)


def failed() -> logging.LogRecord:
    try:
        raise KeyError("queue\nof 7")
    except KeyError:
        return logging.LogRecord("ihsm.x", logging.ERROR, "", 1, "command %d failed", (7,), sys.exc_info())


def test_an_exception_is_at_the_end_of_the_line() -> None:
    line = logs.TextFormatter("%(message)s").format(failed())
    assert line.startswith("command 7 failed: KeyError: 'queue")
    assert "(test_logs.py:" in line
    assert "\n" not in line


def test_who_asks_gets_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = logs.TextFormatter("%(message)s")
    logging.getLogger().setLevel(logging.DEBUG)
    assert "Traceback" in formatter.format(failed())
    logging.getLogger().setLevel(logging.WARNING)
    record = failed()
    assert "Traceback" not in formatter.format(record)
    monkeypatch.setenv(logs.TRACEBACK_VARIABLE, "1")
    assert "Traceback" in formatter.format(record)


def test_json_has_it_in_a_field() -> None:
    line = logs.JsonFormatter().format(failed())
    assert "\n" not in line
    assert "Traceback" in json.loads(line)["exception"]
