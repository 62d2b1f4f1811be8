# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What libvfio-user says, for our log: in Python's levels, and without errors that are none."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Final

LogCallback = Callable[[int, str], None]

LEFT: Final = (errno.ENOMSG, errno.ECONNRESET)
"""How the library's attach says that the client has left: before its greeting, or within it or the answer."""
_LEVELS: Final = (
    logging.CRITICAL,
    logging.CRITICAL,
    logging.CRITICAL,
    logging.ERROR,
    logging.WARNING,
    logging.INFO,
    logging.INFO,
    logging.DEBUG,
)
"""Python's level for each of syslog's (emerg 0 ... debug 7)."""


def syslog_level(level: int) -> int:
    """The level up to which the library has to speak, so that all of at least Python's `level` is heard."""
    return max(index for index, value in enumerate(_LEVELS) if value >= level)


class LibraryLog:
    """The messages of one context."""

    def __init__(self, log: LogCallback) -> None:
        """`log` gets what is left of them."""
        self._log = log
        self._held: list[tuple[int, str]] | None = None

    def say(self, level: int, text: str) -> None:
        """A message, with syslog's level."""
        if self._held is None:
            self._log(_LEVELS[level], text)
        else:
            self._held.append((_LEVELS[level], text))

    def attached(self, attach: Callable[[], int]) -> int:
        """Have the library take a client: what `attach` returns, 0 or a negative errno.

        For the library it is an error if the client leaves meanwhile, as any process may at any time. So its messages
        are kept until the errno is known, which is all that they say of such a client.
        """
        held = self._held = []
        try:
            result = attach()
        finally:
            self._held = None
        if -result not in LEFT:
            for level, text in held:
                self._log(level, text)
        return result
