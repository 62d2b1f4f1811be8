# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What an operation works with: the partition and session it belongs to, the key store, the dialect, the profile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ihsm_abi.ddi import DdiStatus, ReqHdr
from ihsm_device.hsm.errors import CancelledError, RefusedError
from ihsm_device.hsm.keystore import Handle, KeyStore, Owner, Scope, StaleHandleError
from ihsm_device.hsm.partition import Entry, Kept, Partition, Provisioned, Session, Volatile
from ihsm_device.hsm.profile import Profile
from ihsm_device.hsm.wire import Dialect


@dataclass(slots=True)
class Context:
    """One command at work.

    State is read and changed inside `with context.locked() as state:`, which notices when a reset or the end of the
    session overtook the command. Keys that the command makes are `scratch` until they are stored: whatever is still
    scratch when the command ends is destroyed.
    """

    partition: Partition
    state: Volatile
    """The partition's volatile state when the command was admitted; use `locked`."""
    header: ReqHdr
    caller: Session | None
    """The live session the command names, if any; operations in a session use `session`."""
    answer_session_id: int | None
    """Session that a successful response names: the request's, unless OpenSession makes one."""
    opened: bool = False
    """A session was opened or reopened: the completion carries the short app id."""
    closed: bool = False
    """The session was closed."""
    undo: list[Callable[["Context"], None]] = field(default_factory=list)
    """Takes back what the command made, last first, if its response cannot be delivered; given the context, lest it
    keeps one that would keep it: a circle that has all state of a client, which would outlive that.

    It is for what the response alone names: a new key's number, a new session's id, which nobody could ever give up.
    ReopenSession, ChangePin and EstablishCredential leave nothing here. Their client named the session, the PIN or the
    credential itself and can go on with it; what they ended (the id that waited, the old PIN, K_est) is gone, and other
    clients may already be at work with what has come in its place.
    """
    _scratch: list[Handle] = field(default_factory=list)

    @property
    def store(self) -> KeyStore:
        """The key store."""
        return self.partition.device.store

    @property
    def dialect(self) -> Dialect:
        """How key material looks on the wire."""
        return self.partition.device.dialect

    @property
    def profile(self) -> Profile:
        """Which of several legitimate behaviours the device shows."""
        return self.partition.device.profile

    @property
    def session(self) -> Session:
        """The live session of an in-session command; admission has made sure that there is one."""
        assert self.caller is not None
        return self.caller

    @property
    def provisioned(self) -> Provisioned:
        """Masking key and unwrapping key; admission has made sure that they are there."""
        assert self.state.provisioned is not None
        return self.state.provisioned

    def locked(self) -> "_Locked":
        """Hold the partition's lock and give access to its state; raises CancelledError if it was overtaken."""
        return _Locked(self)

    def overtaken(self) -> bool:
        """Whether a reset or the end of the session came after the command was admitted."""
        with self.partition.lock:
            return self.is_overtaken()

    def is_overtaken(self) -> bool:
        """As `overtaken`; lock held."""
        if self.partition.state is not self.state:
            return True
        return self.caller is not None and not self.partition.sessions.is_live(self.caller)

    @contextmanager
    def recording(self) -> Iterator[Kept]:
        """Change what the partition keeps across resets: one command at a time, and none that was overtaken.

        A reset that comes meanwhile does not touch what is kept; a partition reset waits.
        """
        with self.partition.record_lock:
            with self.locked():
                kept = self.partition.kept
            yield kept

    # -- keys ------------------------------------------------------------------------------------------------------

    def owner(self, scope: Scope = Scope.PARTITION) -> Owner:
        """Owner tag for a new key: the partition, or the caller's session."""
        return self.partition.owner(scope, self.session if scope is Scope.SESSION else None)

    def scratch(self, handle: Handle) -> Handle:
        """Destroy this key when the command ends, unless `keep` is called."""
        self._scratch.append(handle)
        return handle

    def keep(self, handle: Handle) -> Handle:
        """The key has been stored: it outlives the command."""
        self._scratch.remove(handle)
        return handle

    def finish(self) -> None:
        """Destroy what is still scratch."""
        while self._scratch:
            try:
                self.store.destroy(self._scratch.pop())
            except StaleHandleError:
                continue  # a reset destroyed it first

    def roll_back(self) -> None:
        """Take back everything the command made."""
        while self.undo:
            self.undo.pop()(self)

    # -- entries of the vault --------------------------------------------------------------------------------------

    def entry(self, key_id: int) -> Entry:
        """The entry of a key number, whoever owns it; refuses with KeyNotFound (empty, table not owned)."""
        # Without the lock, for every command passes here. An entry that goes meanwhile makes its handle stale, and then
        # `dispatch` asks whether the command was overtaken.
        entry = self.state.vault.get(key_id)
        if entry is None:
            raise CancelledError if self.overtaken() else RefusedError(DdiStatus.KeyNotFound)
        return entry

    def find(self, key_id: int) -> Entry:
        """As `entry`, for any key that this session may name, internal ones and session objects included.

        Raises:
            RefusedError: KeyNotFound, then InvalidPermissions for a session-only key of another session.
        """
        entry = self.entry(key_id)
        if entry.content.type is not None and entry.content.session not in (None, self.caller):
            raise RefusedError(DdiStatus.InvalidPermissions)
        return entry

    def find_own(self, key_id: int) -> Entry:
        """As `find`, for operations that no internal key may be used in: InvalidPermissions for those too."""
        entry = self.find(key_id)
        if entry.content.internal:
            raise RefusedError(DdiStatus.InvalidPermissions)
        return entry


class _Locked:
    """`with context.locked() as state:`; written out, for a generator costs every command more than the lock."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Volatile:
        context = self._context
        lock = context.partition.lock
        lock.acquire()
        if context.is_overtaken():
            lock.release()
            raise CancelledError
        return context.state

    def __exit__(self, *_: object) -> None:
        self._context.partition.lock.release()
