# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which keys of a store are in the device now.

A table of the device holds few keys (110 of P-256, 10 of RSA-2048), a store thousands. So keys rest masked outside and
are unmasked when they are used; when there is no room, those leave that nobody uses and that were used longest ago.

Where all that are there are in use, whoever needs room takes a turn. Those who wait for their turn, or for a key that
another brings, have let go of all keys; the one whose turn it is keeps its own and waits until others let go of theirs.
So nobody waits for ever for what another waiting one has, and nobody is overtaken for ever.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ihsm.api.steps import Ask, Make, Procedure, Signal, Wait
from ihsm.ddi import calls
from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import Key
from ihsm.errors import IhsmError, KeyNotFoundError
from ihsm_abi.ddi import DdiStatus

T = TypeVar("T")

NO_ROOM: Final = frozenset(
    {
        DdiStatus.NotEnoughSpace,
        DdiStatus.ReachedMaxKeys,
        DdiStatus.ReachedMaxAesBulkKeys,
        DdiStatus.DefragmentationNeeded,
    }
)
"""Statuses of a command that would succeed with fewer keys in the device (spec 05 §5.6)."""
ROOM_WAIT_S: Final = 60.0
"""How long the one whose turn it is waits for a key to be let go of: as long as the slowest command may take."""


class UntrackedKeysError(IhsmError):
    """The device is full of keys that nobody knows: the answers that named them were interrupted. A reset frees it."""

    exit_code = 6


@dataclass(slots=True, eq=False)
class Resident:
    """A key that is in the device, or on its way."""

    users: int = 1
    key: Key | None = None
    arrived: Signal = field(default_factory=Signal)
    """Set when it is there, or will not come."""
    left: Signal | None = None
    """Set when nobody uses it any more, for who waits for that."""


class _MustWait(Exception):
    """Keys cannot be had now: let go of all in hand, and wait for the signal, or for a turn if it is None."""

    def __init__(self, signal: Signal | None) -> None:
        self.signal = signal


class Residents:
    """The keys of one session that were unmasked or made in it. May be used from any thread."""

    def __init__(self, deleted: set[bytes] | None = None) -> None:
        """None yet; `deleted` has the masked keys that are not to be used again, and is added to by `drop`."""
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, Resident] = OrderedDict()
        """By masked key, used longest ago first."""
        self._leaving: list[Resident] = []
        """What nobody can ask for any more, and is still in the device."""
        self._deleted = set() if deleted is None else deleted
        self._turns: deque[Signal] = deque()
        """Those who need room; the first has its turn, and its signal is set."""
        self._freed: Signal | None = None
        """What the one whose turn it is waits for."""
        self._untracked = False
        """Whether the device may hold keys that are not in this object."""

    def __len__(self) -> int:
        """How many keys are in the device, as far as this session knows."""
        with self._lock:
            return sum(resident.key is not None for resident in (*self._entries.values(), *self._leaving))

    def held(self, masked_keys: Sequence[bytes], use: Callable[..., Procedure[T]]) -> Procedure[T]:
        """Bring keys into the device and have `use` work with them, given in the same order; they stay meanwhile.

        Raises:
            KeyNotFoundError: a key was deleted.
            StatusError: a masked key is none of this device's, or there is no room for the keys even alone.
            UntrackedKeysError: there is no room, and the device has keys that this session does not know.
        """
        taken = self.present(masked_keys)
        if taken is None:
            taken = yield from self._in_turn(lambda has_turn: self._bring(masked_keys, has_turn))
        try:
            return (yield from use(*[resident.key for resident in taken]))
        finally:
            self.give_back(taken)

    def made(self, call: calls.Call[Key]) -> Procedure[Key]:
        """Have the device make a key, which is resident from then on; others leave if there is no room.

        Raises:
            StatusError: the device refuses, or there is no room for the key even alone.
            UntrackedKeysError: as `held`.
        """
        return (yield from self.derived((), lambda: call))

    def derived(self, masked_keys: Sequence[bytes], call: Callable[..., calls.Call[Key]]) -> Procedure[Key]:
        """Have the device make a key of others, as `made`; `call` gets them in the order given.

        Not to be had by `made` within `held`: who waits for room there would keep a key that others wait for.

        Raises:
            KeyNotFoundError, StatusError, UntrackedKeysError: as `held` and `made`.
        """
        key: Key = yield from self._in_turn(lambda has_turn: self._derive(masked_keys, call, has_turn))
        if key.masked_key:
            resident = Resident(0, key)
            resident.arrived.set()
            with self._lock:
                self._entries[key.masked_key] = resident
        return key

    def drop(self, masked_keys: Sequence[bytes]) -> Procedure[None]:
        """Delete keys from the device when those who use them now have done; nobody can use them after this call."""
        with self._lock:
            self._deleted.update(masked_keys)
            found = (self._entries.pop(masked_key, None) for masked_key in masked_keys)
            leaving = [resident for resident in found if resident is not None]
            self._leaving.extend(leaving)
        for resident in leaving:
            while True:
                with self._lock:
                    if resident not in self._leaving:
                        key = None  # it has made room for another meanwhile
                        break
                    if not resident.users:
                        self._leaving.remove(resident)
                        key = resident.key
                        break
                    resident.left = left = resident.left or Signal()
                yield Wait(left)
            if key is not None:
                yield from self._delete(key)
                self._announce_room()

    def rest(self, masked_keys: Sequence[bytes]) -> Procedure[None]:
        """Have keys leave the device that nobody uses now; whoever uses one later has it brought in again."""
        with self._lock:
            found = [(each, self._entries.get(each)) for each in masked_keys]
            leaving = [(each, there.key) for each, there in found if there and there.key and not there.users]
            for masked_key, _ in leaving:
                del self._entries[masked_key]
        for _, key in leaving:
            yield from self._delete(key)
        self._announce_room()

    def leave(self) -> Procedure[None]:
        """Have all keys leave the device that nobody uses now; errors as `rest`."""
        with self._lock:
            masked_keys = list(self._entries)
            orphans = [each for each in self._leaving if each.key is not None and not each.users]
            self._leaving = [each for each in self._leaving if each not in orphans]
        yield from self.rest(masked_keys)
        for orphan in orphans:
            yield from self._delete(orphan.key)  # type: ignore[arg-type]

    # -- taking and giving back ----------------------------------------------------------------------------------------

    def present(self, masked_keys: Sequence[bytes]) -> list[Resident] | None:
        """The keys, to be used until `give_back`, if all are there; else None."""
        entries = self._entries
        taken = []
        with self._lock:
            for masked_key in masked_keys:
                resident = entries.get(masked_key)
                if resident is None or resident.key is None:
                    return None
                taken.append(resident)
            for masked_key, resident in zip(masked_keys, taken, strict=True):
                resident.users += 1
                entries.move_to_end(masked_key)
        return taken

    def _bring(self, masked_keys: Sequence[bytes], has_turn: bool) -> Procedure[list[Resident]]:
        """The keys, of which some are not there."""
        taken: list[Resident] = []
        try:
            for masked_key in masked_keys:
                taken.append((yield from self._take(masked_key, len(taken), has_turn)))
        except BaseException:
            self.give_back(taken)
            raise
        return taken

    def _take(self, masked_key: bytes, own: int, has_turn: bool) -> Procedure[Resident]:
        """One key; `own` is how many the caller has already."""
        with self._lock:
            if masked_key in self._deleted:
                raise KeyNotFoundError("the key was deleted")
            resident = self._entries.get(masked_key)
            if resident is not None:
                if resident.key is None:
                    raise _MustWait(resident.arrived)
                resident.users += 1
                self._entries.move_to_end(masked_key)
                return resident
            resident = self._entries[masked_key] = Resident()
        try:
            resident.key = yield from self._with_room(calls.unmask(masked_key), own + 1, has_turn)
        except BaseException:
            with self._lock:
                if self._entries.get(masked_key) is resident:
                    del self._entries[masked_key]
            self.give_back([resident])
            raise
        finally:
            resident.arrived.set()
        return resident

    def give_back(self, taken: Sequence[Resident]) -> None:
        """End the use of keys."""
        freed: Signal | None = None
        with self._lock:
            for resident in taken:
                resident.users -= 1
                if not resident.users:
                    if resident.left is not None:
                        resident.left.set()
                    freed = self._freed
        if freed is not None:
            freed.set()

    # -- room ----------------------------------------------------------------------------------------------------------

    def _in_turn(self, attempt: Callable[[bool], Procedure[T]]) -> Procedure[T]:
        """What an attempt gives, which is told whether it has its turn, and is made anew when it had to wait."""
        turn: Signal | None = None
        try:
            while True:
                try:
                    return (yield from attempt(turn is not None))
                except _MustWait as wait:
                    signal = wait.signal
                if signal is None:
                    signal = turn = self._joined()
                yield Wait(signal)
        finally:
            if turn is not None:
                self._end_turn(turn)

    def _with_room(self, call: calls.Call[Key], own: int, has_turn: bool) -> Procedure[Key]:
        """What a call makes; others leave while there is no room. `own`: how many keys the caller has or brings."""
        if self._turns and not has_turn:
            raise _MustWait(None)
        while True:
            try:
                key: Key = yield Make(call, self._adopt)
                return key
            except StatusError as error:
                if error.status not in NO_ROOM:
                    raise
                full = error
            with self._lock:
                victim = self._victim()
                if victim is None:
                    if self._users() <= own:  # nobody will make room
                        raise self._untracked_error() if self._untracked else full
                    if not has_turn:
                        raise _MustWait(None)
                    freed = self._freed = Signal()
            if victim is None:
                if not (yield Wait(freed, ROOM_WAIT_S)):
                    raise full
                with self._lock:
                    victim = self._victim()  # none if there is room already
            if victim is not None:
                yield from self._delete(victim)

    def _derive(
        self, masked_keys: Sequence[bytes], call: Callable[..., calls.Call[Key]], has_turn: bool
    ) -> Procedure[Key]:
        taken = yield from self._bring(masked_keys, has_turn)
        try:
            return (yield from self._with_room(call(*[each.key for each in taken]), len(taken), has_turn))
        finally:
            self.give_back(taken)

    def _victim(self) -> Key | None:
        """A key that leaves: one that is not wanted any more, or that nobody uses, used longest ago; lock held."""
        for position, resident in enumerate(self._leaving):
            if not resident.users and resident.key is not None:
                del self._leaving[position]
                return resident.key
        for masked_key, resident in self._entries.items():
            if not resident.users and resident.key is not None:
                del self._entries[masked_key]
                return resident.key
        return None

    def _users(self) -> int:
        """Uses of keys that are there or on their way; lock held."""
        return sum(resident.users for resident in (*self._entries.values(), *self._leaving))

    def _delete(self, key: Key) -> Procedure[None]:
        """Delete a key that is in no list any more."""
        try:
            yield Ask(calls.delete_key(key))
        except IhsmError:
            raise
        except BaseException:  # interrupted, perhaps before the command was sent
            self._untracked = True
            raise

    def _adopt(self, key: Key | None) -> None:
        """A key whose maker has gone; None: perhaps there is one."""
        if key is None:
            self._untracked = True
            return
        with self._lock:
            self._leaving.append(Resident(0, key))
        self._announce_room()

    def _announce_room(self) -> None:
        with self._lock:
            freed = self._freed
        if freed is not None:
            freed.set()

    def _untracked_error(self) -> UntrackedKeysError:
        return UntrackedKeysError("the device is full of keys whose makers were interrupted")

    def _joined(self) -> Signal:
        """A turn, the last of all."""
        turn = Signal()
        with self._lock:
            self._turns.append(turn)
            if self._turns[0] is turn:
                turn.set()
        return turn

    def _end_turn(self, turn: Signal) -> None:
        with self._lock:
            was_first = self._turns[0] is turn
            self._turns.remove(turn)
            if was_first:
                self._freed = None
                if self._turns:
                    self._turns[0].set()
