# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What AES commands have of a session: the client makes it, the driver sends it."""

from __future__ import annotations

from ihsm.arguments import integer
from ihsm.errors import SessionClosedError


class FastPathSession:
    """The ids that an AES command is checked against (spec 02 E.3), good until their session ends.

    `ihsm.ddi.Session.fast_path` is the one of an open session and ends with it. The device would not notice: a key that
    is not the session's own serves every session id of its application, closed ones too (spec 05 §17.1). One that is
    made here by hand belongs to no session, and `end` is its maker's business.
    """

    __slots__ = ("_ended", "session_id", "short_app_id")

    def __init__(self, session_id: int, short_app_id: int) -> None:
        """Ids as OpenSession or ReopenSession gave them, 16 and 8 bits; ArgumentError for others."""
        self.session_id = integer("FastPathSession", "session_id", session_id, 0, 0xFFFF)
        self.short_app_id = integer("FastPathSession", "short_app_id", short_app_id, 0, 0xFF)
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self._ended

    @property
    def ids(self) -> tuple[int, int]:
        """Session id and short application id, as a queue entry has them.

        Raises:
            SessionClosedError: the session has ended.
        """
        self.check()
        return self.session_id, self.short_app_id

    def check(self) -> None:
        """See that it goes on.

        Raises:
            SessionClosedError: the session has ended.
        """
        if self._ended:
            raise SessionClosedError(f"AES command: session {self.session_id} is closed")

    def end(self) -> None:
        """No further AES command under these ids; harmless the second time."""
        self._ended = True

    def __repr__(self) -> str:
        """The ids, and whether they are still good."""
        state = ", ended" if self._ended else ""
        return f"FastPathSession(session_id={self.session_id}, short_app_id={self.short_app_id}{state})"
