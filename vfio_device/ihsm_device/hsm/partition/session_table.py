# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The session table of a partition (spec 04 §10): eight ids, each free, live, or waiting for renegotiation."""

from dataclasses import dataclass

from ihsm_abi.ddi import ApiRev, DdiStatus
from ihsm_abi.ddi.limits import MAX_SESSIONS
from ihsm_abi.fault_actions import Resource
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.keystore import Handle
from ihsm_device.hsm.partition.published import Published
from ihsm_device.hsm.partition.shortage import Shortage


@dataclass(slots=True, eq=False)
class Session:
    """A live session."""

    id: int
    rev: ApiRev
    """Revision it was opened or reopened with; its commands must carry the same."""
    masking_key: Handle
    """Masks the session-only keys."""


class SessionTable:
    """Which ids are in use; guarded by the partition's lock."""

    def __init__(self, shortage: Shortage, published: Published) -> None:
        """All ids free; none is given away where `shortage` says so. Live sessions are published."""
        self._shortage = shortage
        self._published = published
        self._live: dict[int, Session] = {}
        self._flagged: set[int] = set()

    def live(self, session_id: int) -> Session | None:
        """The live session of an id."""
        return self._live.get(session_id)

    def is_live(self, session: Session) -> bool:
        """Whether this very session, not a successor under its id, is still live."""
        return self._live.get(session.id) is session

    def is_flagged(self, session_id: int) -> bool:
        """Whether the id waits for renegotiation."""
        return session_id in self._flagged

    def is_allocated(self, session_id: int) -> bool:
        """Whether the id is live or waits for renegotiation."""
        return session_id in self._live or session_id in self._flagged

    def lowest_free_id(self) -> int:
        """The id that the next session gets; refuses with VaultSessionLimitReached if there is none."""
        for session_id in () if self._shortage.of(Resource.SESSIONS) else range(MAX_SESSIONS):
            if not self.is_allocated(session_id):
                return session_id
        raise RefusedError(DdiStatus.VaultSessionLimitReached)

    def put(self, session: Session) -> None:
        """Make a session live under its id, which is free or flagged."""
        self._flagged.discard(session.id)
        self._live[session.id] = session
        self._published.session(session.id, session.rev)

    def free(self, session_id: int) -> None:
        """Make an id free, whatever it was."""
        self._withdraw(session_id)
        self._live.pop(session_id, None)
        self._flagged.discard(session_id)

    def flag_all(self) -> None:
        """Every allocated id waits for renegotiation from now on (NSSR, disable)."""
        self._withdraw(*self._live)
        self._flagged.update(self._live)
        self._live.clear()

    def clear(self) -> None:
        """Free all ids (partition reset)."""
        self._withdraw(*self._live)
        self._live.clear()
        self._flagged.clear()

    def snapshot(self) -> dict[int, str]:
        """State of every id in use: "live" or "renegotiation"."""
        states = dict.fromkeys(self._live, "live") | dict.fromkeys(self._flagged, "renegotiation")
        return dict(sorted(states.items()))

    def _withdraw(self, *session_ids: int) -> None:
        """The express lane answers none of their commands any more."""
        for session_id in session_ids:
            self._published.withdraw_session(session_id)
