# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Log output of every command: plain lines for people, one JSON object per line for machines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal

from ihsm_abi import json_text

LogFormat = Literal["text", "json"]
TEXT_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


TRACEBACK_VARIABLE: Final = "IHSM_TRACEBACK"
"""Environment variable that, set to something, lets users see tracebacks."""


def tracebacks_wanted() -> bool:
    """Whether the user asked for them, by the variable or by logging everything."""
    return bool(os.environ.get(TRACEBACK_VARIABLE)) or logging.getLogger().isEnabledFor(logging.DEBUG)


def brief(error: BaseException) -> str:
    """An exception in one line: type, first line of its text, and where it was raised."""
    text = str(error).partition("\n")[0]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


class TextFormatter(logging.Formatter):
    """One line a record: an exception is named at its end, its traceback follows only if the user asked for it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or tracebacks_wanted():
            return super().format(record)
        short = logging.makeLogRecord(record.__dict__ | {"exc_info": None, "exc_text": None})
        return f"{super().format(short)}: {brief(error)}"


class JsonFormatter(logging.Formatter):
    """Time (UTC, ISO 8601), level, logger, thread, message, and the traceback of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if (function := function_of(record)) is not None:
            entry["function"] = function
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json_text.dump(entry)


def failure(log: logging.Logger, text: str, *arguments: object) -> None:
    """Log the exception at hand, as `log.exception`; where there is no memory for that, the line is lost and no more.

    For whoever must go on, or has somebody waiting for an answer.
    """
    with contextlib.suppress(MemoryError):
        log.exception(text, *arguments)


_concerned = threading.local()


def concern(function: int | None) -> None:
    """What this thread logs from now on concerns a function of the process, by its number from 0; None: no function."""
    _concerned.function = function


def function_of(record: logging.LogRecord) -> int | None:
    """The function that a record concerns, asked on the thread that logs it or of a record made for another."""
    function: int | None = getattr(record, "function", None)
    return getattr(_concerned, "function", None) if function is None else function


def configure(level: str, log_format: LogFormat, handler: logging.Handler | None = None) -> None:
    """Send every log record of `level` (a name of the logging module) and above to `handler`, or to standard error."""
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(TEXT_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
