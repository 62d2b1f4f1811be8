# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which keys of a store are in the device now.

A table of the device holds few keys (110 of P-256, 10 of RSA-2048), a store thousands. So keys rest masked outside and
are unmasked when they are used; when there is no room, those leave that nobody uses and that were used longest ago.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ihsm.api.steps import Ask, Changes, Procedure, Step
from ihsm.ddi import calls
from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import Key
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


@dataclass(slots=True)
class _Resident:
    users: int = 1
    key: Key | None = None
    """None while it is being unmasked."""


class _MustWait(Exception):
    """A key cannot be had before something else has been let go of."""

    def __init__(self, step: Step) -> None:
        self.step = step


class Residents:
    """The keys of one session that were unmasked or made in it. May be used from any thread."""

    def __init__(self) -> None:
        """None yet."""
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Resident] = OrderedDict()
        """By masked key, used longest ago first."""
        self._changes = Changes()

    def __len__(self) -> int:
        """How many keys are in the device, as far as this session knows."""
        return len(self._entries)

    def held(self, masked_keys: Sequence[bytes], use: Callable[..., Procedure[T]]) -> Procedure[T]:
        """Bring keys into the device and have `use` work with them, given in the same order; they stay meanwhile.

        Raises:
            StatusError: a masked key is none of this device's, or there is no room for the keys even alone.
        """
        while True:
            taken: list[_Resident] = []
            try:
                try:
                    for masked_key in masked_keys:
                        taken.append((yield from self._take(masked_key, len(taken))))
                except _MustWait as wait:
                    step = wait.step
                else:
                    return (yield from use(*(resident.key for resident in taken)))
            finally:
                self._give_back(taken)
            # With nothing in hand: two that each wait for what the other holds would wait for ever.
            yield step

    def made(self, call: calls.Call[Key]) -> Procedure[Key]:
        """Have the device make a key, which is resident from then on; others leave if there is no room."""
        while True:
            try:
                key = yield from self._with_room(call, 0)
                break
            except _MustWait as wait:
                step = wait.step
            yield step
        if key.masked_key:
            with self._lock:
                self._entries[key.masked_key] = _Resident(0, key)
        return key

    def forget(self) -> None:
        """The device has none of the keys any more."""
        with self._lock:
            self._entries = OrderedDict()
        self._changes.announce()

    def drop(self, masked_keys: Sequence[bytes]) -> Procedure[None]:
        """Delete keys from the device where they are there; whoever uses one gets an error."""
        with self._lock:
            dropped = [self._entries.pop(masked_key, None) for masked_key in masked_keys]
        for resident in dropped:
            if resident is not None and resident.key is not None:
                yield Ask(calls.delete_key(resident.key))
        self._changes.announce()

    def _take(self, masked_key: bytes, own: int) -> Procedure[_Resident]:
        """A key to use; `own`: how many the caller holds already."""
        change = self._changes.next()
        with self._lock:
            resident = self._entries.get(masked_key)
            if resident is None:
                entries, resident = self._entries, _Resident()
                entries[masked_key] = resident
            elif resident.key is None:
                raise _MustWait(change)
            else:
                resident.users += 1
                self._entries.move_to_end(masked_key)
                return resident
        try:
            resident.key = yield from self._with_room(calls.unmask(masked_key), own)
        except BaseException:
            with self._lock:
                entries.pop(masked_key, None)
            raise
        finally:
            self._changes.announce()
        return resident

    def _with_room(self, call: calls.Call[Key], own: int) -> Procedure[Key]:
        """What a call makes; others leave while there is no room. `own`: how many keys the caller holds."""
        while True:
            change = self._changes.next()
            try:
                key: Key = yield Ask(call)
                return key
            except StatusError as error:
                if error.status not in NO_ROOM:
                    raise
                victim = self._evict()
                if victim is None and self._uses() <= own:
                    raise  # nobody will make room
            if victim is None:
                raise _MustWait(change)
            yield Ask(calls.delete_key(victim))

    def _evict(self) -> Key | None:
        with self._lock:
            for masked_key, resident in self._entries.items():
                if not resident.users and resident.key is not None:
                    del self._entries[masked_key]
                    return resident.key
        return None

    def _uses(self) -> int:
        with self._lock:
            return sum(resident.users for resident in self._entries.values() if resident.key is not None)

    def _give_back(self, taken: Sequence[_Resident]) -> None:
        if taken:
            with self._lock:
                for resident in taken:
                    resident.users -= 1
            self._changes.announce()
