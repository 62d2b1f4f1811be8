# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device of a store in use: brought up, provisioned, with a session, and brought back when it was lost.

A reset, FLR, migration or restart of the device takes credential, sessions and keys away (spec 04 §12). What the store
keeps brings them back: masked BK3 and BMK the partition's masking key, and with it every masked key. So a call that
fails for this reason is repeated once, after all that.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from ihsm import ddi, forks
from ihsm.api.losses import is_lost
from ihsm.api.residents import Residents
from ihsm.api.steps import Procedure, Step, one_step
from ihsm.closing import Closing
from ihsm.ddi.errors import StatusError
from ihsm.driver import AesCommands, OpenDevice, Submitted
from ihsm.errors import (
    ArgumentError,
    BusError,
    DriverError,
    ForkedError,
    IhsmError,
    KeysLostError,
    QueueClosedError,
    SessionClosedError,
    StoreDamagedError,
    StoreError,
    UnknownDeviceError,
)
from ihsm.procedures import perform, perform_async
from ihsm.store import Store
from ihsm_abi.ddi import DdiStatus
from ihsm_abi.ddi.limits import MAX_SESSIONS

T = TypeVar("T")
_log = logging.getLogger(__name__)

FOREIGN_STATUSES: Final = frozenset(
    {
        DdiStatus.MaskedBkBootNotPresent,
        DdiStatus.MaskedKeyDecodeFailed,
        DdiStatus.MaskingBkBootFailed,
        DdiStatus.UnmaskingBk3Failed,
    }
)
"""What it answers to a masked BK3 or BMK that is not of its making (spec 04 §9.4)."""


DRAIN_S: Final = 5.0
"""How long those who use a lost device may take to notice; one that does not, such as a coroutine of an event loop that
was stopped, costs this once."""


class Source(Protocol):
    """Where the device comes from: see `ihsm.api.devices`."""

    @property
    def named(self) -> bool:
        """Whether the user or the store named it, rather than it being found."""

    def open(self) -> OpenDevice:
        """Reach it, or start it, and bring it up; the caller closes what it gets."""

    def close(self) -> None:
        """Let go of what belongs to it besides what was opened."""


@dataclass(slots=True, eq=False)
class Link:
    """A device as long as it is not lost."""

    device: OpenDevice
    partition: ddi.Partition
    session: ddi.Session
    residents: Residents
    _turns: itertools.count[int] = field(default_factory=itertools.count)
    _uses: set[object] = field(default_factory=set)
    """Procedures at work; additions and removals are atomic."""
    _over: bool = False
    _idle: threading.Event = field(default_factory=threading.Event)

    @property
    def aes_queues(self) -> Sequence[AesCommands[Submitted]]:
        """All AES queues.

        Raises:
            ArgumentError: the function was opened without.
        """
        queues = self.device.aes_queues
        if not queues:
            raise ArgumentError("Hsm", "options", "aes_queues=0: there is no AES queue")
        return queues

    def aes_queue(self) -> AesCommands[Submitted]:
        """The first AES queue that is idle, which the device has in its cache, else the one whose turn it is.

        Raises:
            ArgumentError: see `aes_queues`.
        """
        queues = self.aes_queues
        for queue in queues:
            if not queue.outstanding:
                return queue
        return queues[next(self._turns) % len(queues)]

    def enter(self) -> object | None:
        """Begin a procedure; what is given back to `leave`, or None if the link is over."""
        use = object()
        self._uses.add(use)
        # Looked at after the use can be seen: `end` does it the other way round, and so one of the two sees the other.
        if self._over:
            self.leave(use)
            return None
        return use

    def leave(self, use: object) -> None:
        """End a procedure."""
        self._uses.discard(use)
        if self._over and not self._uses:
            self._idle.set()

    def end(self, limit_s: float) -> bool:
        """Have all procedures fail and no new one begin; whether all have ended within `limit_s` seconds.

        The session and the key numbers of this link may soon be valid again and mean other keys, so whoever went on
        with them would sign with the wrong one.
        """
        self._over = True
        self.session.abandon()
        self.device.stop(QueueClosedError("the device was lost, and is brought back"))
        return not self._uses or self._idle.wait(limit_s)


class Connection(Closing):
    """A store's device. May be used from any thread."""

    def __init__(self, store: Store, source: Source) -> None:
        """Open the device, provision it with what the store keeps, and open a session; if this raises, it is closed.

        Raises:
            UnknownDeviceError: a device was found that the store does not know; it was not provisioned.
            KeysLostError: the device cannot read what the store keeps, for another made it, or its state is gone.
            DeviceNotFoundError, DeviceBusyError, BusError, DriverError: it cannot be reached or brought up.
        """
        self.store = store
        self._source = source
        self._lock = threading.RLock()
        """Held while the device is opened, brought back or closed."""
        self._closed = False
        self._forked = False
        self._link: Link | None = None
        self._ticket: ddi.SessionTicket | None = None
        """Of the last session, whose id stays taken until it is reopened."""
        self._deleted: set[bytes] = set()
        self._failures = 0
        self._failure: Exception | None = None
        """Of the last attempt to bring the device back."""
        try:
            self._anchor = _anchor(store)
            self._credential = ddi.Credential(store.secrets.credential_id, store.secrets.credential_pin)
            self._link = self._connect(source.open())
        except BaseException:
            source.close()
            raise
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): the device is the parent's, and so may be a lock that one of its threads had."""
        self._lock = threading.RLock()
        self._forked = True
        self._link = None

    @property
    def link(self) -> Link:
        """The device as it is now.

        Raises:
            QueueClosedError: the connection was closed.
            ForkedError: it is the parent's.
            IhsmError: it was lost and could not be brought back; every use tries again.
        """
        link = self._link
        return link if link is not None else self._revived()

    def run(self, make: Callable[[Link], Procedure[T]]) -> T:
        """Perform a procedure, made for the device as it is; made anew and repeated once if that was lost meanwhile.

        Raises:
            KeysLostError: what was lost cannot be brought back.
            IhsmError: what the procedure raises, for any other reason or the second time.
        """
        link, use = self._entered()
        try:
            return perform(make(link), link)
        except IhsmError as error:
            if not is_lost(error):
                raise
            lost = error
        finally:
            link.leave(use)
        self._replace(link, lost)
        return self._run_once(make)

    def run_one(self, masked_keys: Sequence[bytes], step_of: Callable[..., Step]) -> Any:
        """`run` for one step that uses keys; without a procedure where they are in the device already, as mostly.

        Args:
            masked_keys: as for `Residents.held`.
            step_of: the step, made for the keys in the device.
        """

        def make(link: Link) -> Procedure[Any]:
            return link.residents.held(masked_keys, one_step(step_of))

        link, use = self._entered()
        try:
            taken = link.residents.present(masked_keys)
            if taken is not None:
                try:
                    return step_of(*[resident.key for resident in taken]).perform(link)
                finally:
                    link.residents.give_back(taken)
            lost = None
        except IhsmError as error:
            if not is_lost(error):
                raise
            lost = error
        finally:
            link.leave(use)
        if lost is None:
            return self.run(make)
        self._replace(link, lost)
        return self._run_once(make)

    def _run_once(self, make: Callable[[Link], Procedure[T]]) -> T:
        link, use = self._entered()
        try:
            return perform(make(link), link)
        finally:
            link.leave(use)

    async def run_async(self, make: Callable[[Link], Procedure[T]]) -> T:
        """The same, awaited; only bringing the device back, which is rare and takes long, needs a thread."""
        link, use = await self._entered_async()
        try:
            return await perform_async(make(link), link)
        except IhsmError as error:
            if not is_lost(error):
                raise
            lost = error
        finally:
            link.leave(use)
        import asyncio

        await asyncio.to_thread(self._replace, link, lost)
        link, use = await self._entered_async()
        try:
            return await perform_async(make(link), link)
        finally:
            link.leave(use)

    def close(self) -> None:
        """End the session and let go of the device; harmless the second time. What others do with it fails."""
        with self._lock:
            link, self._link, self._closed = self._link, None, True
            try:
                if link is not None:
                    _end(link)
                    link.device.close()
            finally:
                self._source.close()

    def _entered(self) -> tuple[Link, object]:
        """The device as it is now, with a procedure begun."""
        while True:
            link = self.link
            use = link.enter()
            if use is not None:
                return link, use
            with self._lock:  # which is held until another link has taken its place
                pass

    async def _entered_async(self) -> tuple[Link, object]:
        link = self._link
        use = None if link is None else link.enter()
        if link is None or use is None:
            import asyncio

            return await asyncio.to_thread(self._entered)
        return link, use

    def _check_open(self) -> None:
        if self._closed:
            raise QueueClosedError(f"Hsm: used after close() of store {self.store.name!r}: open it anew")

    def _replace(self, lost: Link, error: IhsmError) -> None:
        """Bring the device back after a link was lost; only the first who comes does the work."""
        failures = self._failures
        with self._lock:
            self._check_open()
            if self._link is lost:
                _log.warning("the device was lost (%s) and is brought back", error)
                self._link = None
                self._connected(failures, lambda: self._bring_back(lost))
            else:
                self._connected(failures, self._anew)

    def _revived(self) -> Link:
        if self._forked:
            raise ForkedError(f"store {self.store.name}")
        failures = self._failures
        with self._lock:
            self._check_open()
            return self._connected(failures, self._anew)

    def _connected(self, failures: int, connect: Callable[[], Link]) -> Link:
        """The link, made by `connect` if there is none; lock held.

        `failures` is their number when the caller came: who waited while another tried does not try, and wait, as long
        again, but fails as the other did.
        """
        if self._link is None:
            if self._failures != failures and self._failure is not None:
                raise self._failure
            try:
                self._link = connect()
            except Exception as error:
                self._failures += 1
                self._failure = error
                raise
            self._failure = None
        return self._link

    def _bring_back(self, lost: Link) -> Link:
        if lost.end(DRAIN_S):
            try:
                lost.device.recover()
                return self._connect(lost.device)
            except (BusError, DriverError) as error:
                _log.debug("recovery does not help (%s), connecting anew", error)
        # Of a device that was closed nothing can be asked any more, whoever still has its link.
        lost.device.close()
        return self._anew()

    def _anew(self) -> Link:
        return self._connect(self._source.open())

    def _connect(self, device: OpenDevice) -> Link:
        try:
            partition = ddi.Partition(device)
            self._check_identity(partition)
            is_fresh = self._provision(partition)
            session = self._open_session(device, partition, is_fresh)
            self._ticket = session.ticket
            return Link(device, partition, session, Residents(self._deleted))
        except BaseException:
            device.close()
            raise

    def _check_identity(self, partition: ddi.Partition) -> None:
        if self._source.named:
            return
        if identity_of(partition) != self.store.identity:
            raise UnknownDeviceError(
                f"store {self.store.name}: the device found is not the one it was made with, and was left alone; name "
                "the store's device with --device, or provision this one with `ihsm init`"
            )

    def _provision(self, partition: ddi.Partition) -> bool:
        """Set the credential, and give back the masking key; False if the partition has both already."""
        store = self.store
        if partition.is_provisioned():
            return False  # behind a kernel driver it may be, from before; the session will tell whether by us
        try:
            bmk = partition.establish_credential(
                self._credential,
                store.masked_bk3,
                self._anchor,
                bmk=store.bmk,
                masked_unwrapping_key=store.unwrapping_key or b"",
            )
        except StatusError as error:
            if partition.is_provisioned():
                return False  # by another program that has found it empty, too
            if error.status not in FOREIGN_STATUSES:
                raise
            raise KeysLostError(
                f"store {store.name}: the device cannot read its keys ({error.status.name}): another device made them, "
                "or this one lost its state; bring back the device with its --state folder, or make a new store with "
                "`ihsm init`"
            ) from None
        if bmk != store.bmk:
            try:
                store.update(bmk=bmk)
            except StoreError as error:  # the one that is kept still is good
                _log.warning("the device renewed the backup of its masking key, which cannot be kept: %s", error)
        return True

    def _open_session(self, device: OpenDevice, partition: ddi.Partition, is_fresh: bool) -> ddi.Session:
        """A session, where possible the one of before: an id that nobody reopens stays taken (spec 04 §12)."""
        if self._ticket is not None:
            try:
                return partition.reopen_session(self._credential, self._ticket)
            except (StatusError, SessionClosedError) as error:
                _log.debug("session not reopened: %s", error)
                device.flush_session(self._ticket.session_id)  # whatever is left of it takes the place of another
        try:
            return partition.open_session(self._credential)
        except StatusError as error:
            if error.status is DdiStatus.InvalidAppCredentials and not is_fresh:
                raise UnknownDeviceError(
                    f"store {self.store.name}: another program has provisioned the device, with another credential; "
                    "end that program, and reset the device"
                ) from None
            if error.status is not DdiStatus.VaultSessionLimitReached or not is_fresh:
                raise
        # Programs that were killed have left ids taken; nobody else can have a live one, for we set the credential.
        for session_id in range(MAX_SESSIONS):
            device.flush_session(session_id)
        return partition.open_session(self._credential)


def _anchor(store: Store) -> ddi.SoftwareTrustAnchor:
    """The owner's key; raises StoreDamagedError."""
    try:
        key = load_der_private_key(store.secrets.owner_key, None)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return ddi.SoftwareTrustAnchor(key)
        problem = type(key).__name__
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem = str(error)
    raise StoreDamagedError(
        f"store {store.name!r}: owner: no P-384 private key ({problem}); restore it from a copy of the store"
    )


def _end(link: Link) -> None:
    """End the session; what would stay in a device that others use as well is deleted before."""
    try:
        if link.device.outlives_us:
            perform(link.residents.leave(), link)
        link.session.close()
    except IhsmError as error:
        _log.debug("session not closed: %s", error)


def identity_of(partition: ddi.Partition) -> bytes:
    """SHA-256 of the partition's identity key (DER SubjectPublicKeyInfo), which no reset changes (spec 04 §12)."""
    key = partition.identity_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
