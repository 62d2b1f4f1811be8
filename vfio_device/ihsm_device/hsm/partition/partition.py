# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The state of one partition, by how long each part of it lives (spec 04 §3, §12).

`lock` guards everything here. It is held for look-ups, comparisons and changes of state, never during key generation,
key agreement, signatures or file access: an operation prepares its results outside and commits them under the lock,
unless a reset overtook it. A reset replaces the `Volatile` object, so an operation notices by its identity.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from ihsm_abi.ddi.limits import NONCE_BYTES
from ihsm_device.hsm.device import HsmDevice, PartitionRecord, RecordFile, StateError
from ihsm_device.hsm.identity import PARTITION_ID_BYTES, PartitionIdentity, masking
from ihsm_device.hsm.keystore import BulkTable, Credential, Handle, Owner, PairwiseTest, PairwiseTestError, Scope
from ihsm_device.hsm.partition.pin_policy import PinPolicy
from ihsm_device.hsm.partition.published import Published
from ihsm_device.hsm.partition.session_table import Session, SessionTable
from ihsm_device.hsm.partition.shortage import Shortage
from ihsm_device.hsm.partition.vault import Describe, Entry, KeyPublisher, Vault
from ihsm_device.hsm.wire import Point

_log = logging.getLogger(__name__)


class EncryptionPurpose(Enum):
    """The two keys to which clients encrypt credentials."""

    ESTABLISH = "K_est"
    SESSION = "K_sess"


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """The device's side of the credential-encryption protocol (spec 04 §5)."""

    handle: Handle
    point: Point
    signature: bytes
    """By the partition identity key, canonical r ‖ s."""
    entry: Entry


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What a successful EstablishCredential leaves behind."""

    bk3_session: Handle
    masking_key: Handle
    masking_entry: Entry
    unwrapping_entry: Entry | None
    """None only while the key is still being made, in profiles where that may be seen."""


@dataclass(slots=True)
class Volatile:
    """Everything that NSSR, disable and partition reset end."""

    nonce: bytes
    vault: Vault
    pin_policy: PinPolicy
    credential: Credential | None = None
    encryption_keys: dict[EncryptionPurpose, EncryptionKey] = field(default_factory=dict)
    provisioned: Provisioned | None = None


@dataclass(slots=True)
class Kept:
    """What survives NSSR and disable and ends with a partition reset."""

    identity: PartitionIdentity
    record: PartitionRecord
    bk_boot: Handle | None = None
    unwrapping_key: Handle | None = None
    launch_guid: bytes = bytes(16)

    @classmethod
    def new(cls, device: HsmDevice, index: int) -> Self:
        """What function `index` starts with: another identity, nothing else."""
        return cls.of_record(device, index, PartitionRecord(device.store.random(PARTITION_ID_BYTES)))

    @classmethod
    def of_record(cls, device: HsmDevice, index: int, record: PartitionRecord) -> Self:
        """Make the keys of a record usable; raises StateError if they do not belong to this device."""
        store = device.store
        kept = cls(PartitionIdentity.derive(store, device.identity, record.partition_id, index), record)
        try:
            store.ec_pairwise_test(kept.identity.key, PairwiseTest.SIGN)
        except PairwiseTestError as error:
            device.enter_error_state(f"pairwise test of the identity key of function {index}: {error}")
        if record.bk_boot is not None:
            owner = Owner(index, Scope.IDENTITY)
            try:
                kept.bk_boot = masking.unmask_boot_key(store, device.identity.seeds, record.bk_boot, owner)
            except masking.UnmaskError as error:
                raise StateError(f"function {index}: the stored BK_BOOT is not of this device") from error
        return kept


@dataclass(slots=True)
class Partition:
    """One function's HSM."""

    device: HsmDevice
    index: int
    """Number of the function in the process, from 0."""
    tables: int
    kept: Kept
    file: RecordFile[PartitionRecord]
    bulk_table: BulkTable
    """Keys of the fast path."""
    describe: Describe = field(default=lambda content: None)
    """What the express lane may do with a key."""
    clock: Callable[[], float] = time.monotonic
    shortage: Shortage = field(default_factory=Shortage)
    published: Published = field(init=False)
    """What the express lane sees."""
    sessions: SessionTable = field(init=False)
    lock: threading.Lock = field(default_factory=threading.Lock)
    record_lock: threading.Lock = field(default_factory=threading.Lock)
    """Serialises changes of `kept.record` with their files; taken before `lock`, never inside it."""
    state: Volatile = field(init=False)

    @classmethod
    def open(cls, device: HsmDevice, index: int, tables: int, describe: Describe = lambda content: None) -> Self:
        """The partition of function `index` (from 0) with `tables` key tables, as the state directory knows it.

        `describe` says what the express lane may do with a key.

        Raises:
            StateError: the function's file in the state directory is damaged, or not of this device.
        """
        file = device.directory.partition_file(index)
        record = file.read() if device.profile.restart_keeps_identity else None
        if record is None:
            kept = Kept.new(device, index)
            file.write(kept.record)
        else:
            kept = Kept.of_record(device, index, record)
        return cls(device, index, tables, kept, file, device.store.bulk_table(index), describe)

    def __post_init__(self) -> None:
        """Start in the state Fresh."""
        dialect = self.device.dialect
        self.published = Published(little_endian=dialect.little_endian, fips=self.device.fips_approved)
        self.device.on_change(self._device_changed)
        self.sessions = SessionTable(self.shortage, self.published)
        self.state = self._fresh()

    @property
    def provisioned(self) -> bool:
        """Whether a credential and a masking key are there; lock held."""
        return self.state.provisioned is not None

    def owner(self, scope: Scope, session: Session | None = None) -> Owner:
        """Owner tag for new keys."""
        return Owner(self.index, scope, -1 if session is None else session.id)

    # -- life cycle ------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        """NSSR, or disable: keys, credentials and nonce go, session ids wait for renegotiation (spec 04 §12)."""
        with self.lock:
            self.sessions.flag_all()
            self._end_state()
        _log.info("partition %d: reset, session ids %s", self.index, self.sessions.snapshot())

    def client_lost(self) -> None:
        """The client is gone: as `migrate`, and where the profile says so nobody is left to close the session ids."""
        with self.lock:
            self.sessions.flag_all()
            if self.device.profile.lost_client_frees_sessions:
                self.sessions.clear()
            self._end_state()
        _log.info("partition %d: client lost", self.index)

    def reset(self) -> None:
        """Partition reset: everything goes, identity, BK_BOOT and session ids included."""
        with self.record_lock:
            kept = Kept.new(self.device, self.index)
            self.file.write(kept.record)
            with self.lock:
                self.sessions.clear()
                self._end_state()
                old, self.kept = self.kept, kept
                for handle in (old.identity.key, old.bk_boot, old.unwrapping_key):
                    if handle is not None:
                        self.device.store.destroy(handle)
        _log.info("partition %d: partition reset, new identity", self.index)

    def record(self, record: PartitionRecord) -> None:
        """Replace the stored record, durably; `record_lock` held. Raises StateError, and nothing has changed then."""
        self.file.write(record)
        self.kept.record = record

    def close_session(self, session: Session) -> None:
        """End a live session: its keys, its object and its id; lock held."""
        for entry in self.state.vault.of_session(session):
            self.state.vault.remove(entry)
        self.sessions.free(session.id)
        self.device.store.destroy_group(function=self.index, scope=Scope.SESSION, session=session.id)

    def remove_key(self, entry: Entry) -> None:
        """Delete a key that the vault holds; lock held."""
        self.state.vault.remove(entry)
        self.device.store.destroy(entry.content.handle)

    def _device_changed(self) -> None:
        if self.device.error is not None:
            self.published.end()
        self.published.set_fips(self.device.fips_approved)

    def _end_state(self) -> None:
        self.published.withdraw_keys()
        for scope in (Scope.PARTITION, Scope.SESSION):
            self.device.store.destroy_group(function=self.index, scope=scope)
        self.state = self._fresh()

    def _fresh(self) -> Volatile:
        vault = Vault(self.tables, self.shortage, KeyPublisher(self.published, self.describe))
        return Volatile(self.device.store.random(NONCE_BYTES), vault, PinPolicy(self.clock))
