# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device of a store in use: brought up, provisioned, with a session, and brought back when it was lost.

A reset, FLR, migration or restart of the device takes credential, sessions and keys away (spec 04 §12). What the store
keeps brings them back: masked BK3 and BMK the partition's masking key, and with it every masked key. So a call that
fails for this reason is repeated once, after all that.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from ihsm import ddi, forks
from ihsm.api.residents import Residents
from ihsm.api.steps import Procedure, perform, perform_async
from ihsm.closing import Closing
from ihsm.ddi.errors import StatusError
from ihsm.driver import AesQueue, Controller
from ihsm.errors import (
    ArgumentError,
    BusError,
    CommandTimeoutError,
    ControllerFatalError,
    ControllerLostError,
    ControllerTimeoutError,
    DeviceBusyError,
    DeviceGoneError,
    DeviceNotFoundError,
    DriverError,
    ForkedError,
    HsmCommandError,
    IhsmError,
    KeysLostError,
    QueueClosedError,
    SessionClosedError,
    StorePermissionError,
    UnknownDeviceError,
)
from ihsm.store import Store
from ihsm_abi.ddi import DdiStatus

T = TypeVar("T")
_log = logging.getLogger(__name__)

LOST_ERRORS: Final = (
    BusError,
    CommandTimeoutError,
    ControllerFatalError,
    ControllerLostError,
    ControllerTimeoutError,
    DeviceGoneError,
    HsmCommandError,
    QueueClosedError,
    SessionClosedError,
)
"""What a call raises when the device was lost under it."""
LOST_STATUSES: Final = frozenset(
    {
        DdiStatus.CredentialsNotEstablished,
        DdiStatus.FunctionNotEnabled,
        DdiStatus.KeyNotFound,
        DdiStatus.PartitionNotProvisioned,
        DdiStatus.SessionExpected,
        DdiStatus.SessionNeedsRenegotiation,
        DdiStatus.SessionNotFound,
    }
)
"""What the device answers when session or keys went with a reset (spec 04 §4, §12). KeyNotFound, because a key is only
used after it was brought in."""
FOREIGN_STATUSES: Final = frozenset(
    {
        DdiStatus.MaskedBkBootNotPresent,
        DdiStatus.MaskedKeyDecodeFailed,
        DdiStatus.MaskingBkBootFailed,
        DdiStatus.UnmaskingBk3Failed,
    }
)
"""What it answers to a masked BK3 or BMK that is not of its making (spec 04 §9.4)."""


class Device(Protocol):
    """Where the controller comes from: see `ihsm.api.devices`."""

    @property
    def named(self) -> bool:
        """Whether the user or the store named it, rather than it being found."""

    def open(self) -> Controller:
        """Reach it, or start it, and bring it up; the caller closes what it gets."""

    def close(self) -> None:
        """Let go of what belongs to it besides the controller."""


@dataclass(slots=True)
class Link:
    """A device as long as it is not lost."""

    controller: Controller
    partition: ddi.Partition
    session: ddi.Session
    residents: Residents = field(default_factory=Residents)
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    def aes_queue(self) -> AesQueue:
        """The AES queue whose turn it is.

        Raises:
            ArgumentError: the function was opened without AES queues.
        """
        queues = self.controller.aes_queues
        if not queues:
            raise ArgumentError("Hsm", "options", "aes_queues=0: there is no AES queue")
        return queues[next(self._turns) % len(queues)]


class Connection(Closing):
    """A store's device. May be used from any thread."""

    def __init__(self, store: Store, device: Device) -> None:
        """Open the device, provision it with what the store keeps, and open a session.

        Raises:
            UnknownDeviceError: a device was found that the store does not know; it was not provisioned.
            KeysLostError: the device cannot read what the store keeps, for another made it, or its state is gone.
            DeviceNotFoundError, DeviceBusyError, BusError, DriverError: it cannot be reached or brought up.
        """
        self.store = store
        self._device = device
        self._lock = threading.RLock()
        self._closed = False
        self._forked = False
        secrets = store.secrets
        key = load_der_private_key(secrets.owner_key, None)
        self._anchor = ddi.SoftwareTrustAnchor(key)  # type: ignore[arg-type]
        self._credential = ddi.Credential(secrets.credential_id, secrets.credential_pin)
        try:
            self._link: Link | None = self._connect(device.open(), None)
        except BaseException:
            device.close()
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
        link = self.link
        try:
            return perform(make(link), link)
        except IhsmError as error:
            if not is_lost(error):
                raise
            again = self._replaced(link, error)
        return perform(make(again), again)

    async def run_async(self, make: Callable[[Link], Procedure[T]]) -> T:
        """The same, awaited; only bringing the device back, which is rare and takes long, needs a thread."""
        link = self._link
        if link is None:
            link = await asyncio.to_thread(self._revived)
        try:
            return await perform_async(make(link), link)
        except IhsmError as error:
            if not is_lost(error):
                raise
            lost = error
        again = await asyncio.to_thread(self._replaced, link, lost)
        return await perform_async(make(again), again)

    def close(self) -> None:
        """End the session and let go of the device; harmless the second time."""
        with self._lock:
            link, self._link, self._closed = self._link, None, True
            if link is not None:
                try:
                    link.session.close()
                except IhsmError as error:
                    _log.debug("session not closed: %s", error)
                link.controller.close()
            self._device.close()

    def _replaced(self, lost: Link, error: IhsmError) -> Link:
        """The link that follows a lost one; only the first who comes does the work."""
        with self._lock:
            if self._closed:
                raise error
            if self._link is lost:
                _log.warning("the device was lost (%s) and is brought back", error)
                self._link = None
                self._link = self._bring_back(lost)
        return self.link

    def _revived(self) -> Link:
        if self._forked:
            raise ForkedError(f"store {self.store.name}")
        with self._lock:
            if self._closed:
                raise QueueClosedError("Hsm: used after close(); open it anew")
            if self._link is None:
                self._link = self._connect(self._device.open(), None)
            return self._link

    def _bring_back(self, lost: Link) -> Link:
        ticket = lost.session.ticket
        try:
            lost.controller.reset()
            return self._connect(lost.controller, ticket)
        except (BusError, DriverError) as error:
            _log.debug("reset does not help (%s), connecting anew", error)
            lost.controller.close()
        return self._connect(self._device.open(), ticket)

    def _connect(self, controller: Controller, ticket: ddi.SessionTicket | None) -> Link:
        try:
            partition = ddi.Partition(controller)
            self._check_identity(partition)
            self._provision(partition)
            return Link(controller, partition, self._open_session(partition, ticket))
        except BaseException:
            controller.close()
            raise

    def _check_identity(self, partition: ddi.Partition) -> None:
        if self._device.named:
            return
        if identity_of(partition) != self.store.identity:
            raise UnknownDeviceError(
                f"store {self.store.name}: the device found is not the one it was made with, and was left alone; name "
                "the store's device with --device, or provision this one with `ihsm init`"
            )

    def _provision(self, partition: ddi.Partition) -> None:
        store = self.store
        if partition.is_provisioned():
            return  # behind a kernel driver it may be, from before; the session will tell whether by us
        try:
            bmk = partition.establish_credential(
                self._credential,
                store.masked_bk3,
                self._anchor,
                bmk=store.bmk,
                masked_unwrapping_key=store.unwrapping_key or b"",
            )
        except StatusError as error:
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
            except StorePermissionError as error:
                _log.warning("the device renewed the backup of its masking key, which cannot be kept: %s", error)

    def _open_session(self, partition: ddi.Partition, ticket: ddi.SessionTicket | None) -> ddi.Session:
        """A session, where possible the one of before: an id that nobody reopens stays taken (spec 04 §12)."""
        if ticket is not None:
            try:
                return partition.reopen_session(self._credential, ticket)
            except StatusError as error:
                _log.debug("session not reopened: %s", error)
        return partition.open_session(self._credential)


def is_lost(error: IhsmError) -> bool:
    """Whether an error says that the device lost its session or keys, rather than that it refuses this call."""
    if isinstance(error, StatusError):
        return error.status in LOST_STATUSES
    return isinstance(error, LOST_ERRORS) and not isinstance(error, DeviceBusyError | DeviceNotFoundError)


def identity_of(partition: ddi.Partition) -> bytes:
    """SHA-256 of the partition's identity key (DER SubjectPublicKeyInfo), which no reset changes (spec 04 §12)."""
    key = partition.identity_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
