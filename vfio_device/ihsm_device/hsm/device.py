# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all functions of one server process share: key store, identity, profile, unwrapping keys in stock."""

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ihsm_abi.ddi import DeviceKind
from ihsm_device.hsm.identity import (
    PARTITION_ID_BYTES,
    DeviceIdentity,
    PartitionIdentity,
    certificates,
    hierarchy,
    masking,
)
from ihsm_device.hsm.keystore import (
    KeyStore,
    Owner,
    PairwiseTest,
    PairwiseTestError,
    Scope,
    SelfTestReport,
    run_self_tests,
)
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.hsm.partition import Kept, Partition
from ihsm_device.hsm.profile import DEFAULT, Profile
from ihsm_device.hsm.state import DeviceRecord, PartitionRecord, StateDirectory, StateError
from ihsm_device.hsm.unwrapping_keys import UnwrappingKeyStock
from ihsm_device.hsm.wire import DIALECTS

DEFAULT_TABLES: Final = 1
_SERIAL_BYTES: Final = 8
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """How a device is started."""

    kind: DeviceKind = DeviceKind.Physical
    profile: Profile = DEFAULT
    fips_approved: bool = False
    """FIPS state that responses report."""
    state: Path | None = None
    """State directory; None for an ephemeral identity."""
    validation_hooks: bool = False
    """The firmware's validation operations exist."""


class HsmDevice:
    """The shared part; one per process, because the key store is."""

    def __init__(self, options: DeviceOptions | None = None, *, store: KeyStore | None = None) -> None:
        """Start: open the state, derive the identity, run the self-tests.

        `store` is closed with the device, whoever opened it.

        Raises:
            StateError: the state directory is damaged, in use, or accessible to others.
        """
        self.options = options or DeviceOptions()
        self.profile = self.options.profile
        self.dialect = DIALECTS[self.options.kind]
        self.error: str | None = None
        """Why the device is in its error state; None while it works."""
        self.fips_approved = self.options.fips_approved
        with contextlib.ExitStack() as opened:
            self.directory = opened.enter_context(StateDirectory(self.options.state))
            self.store = store or KeyStore(validation_hooks=self.options.validation_hooks)
            opened.callback(self.store.close)
            self.self_tests = self.run_self_tests()
            secret = self.directory.device_secret(self.store, Owner(scope=Scope.DEVICE))
            self.identity = DeviceIdentity.from_secret(self.store, secret)
            self.record = self._load_record()
            self._opened = opened.pop_all()
        self.unwrapping_keys = UnwrappingKeyStock(self.store, self.enter_error_state)

    def close(self) -> None:
        """Wipe all keys and let others use the state directory."""
        self.unwrapping_keys.close()
        self._opened.close()

    def __enter__(self) -> Self:
        """Use as a context manager that closes at its end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def function(self, index: int = 0, tables: int = DEFAULT_TABLES, launch_guid: bytes = bytes(16)) -> SecurityModule:
        """The security module of function `index` (from 0) with `tables` key tables.

        Raises:
            StateError: the function's file in the state directory is damaged.
        """
        file = self.directory.partition_file(index)
        record = file.read() if self.profile.restart_keeps_identity else None
        if record is None:
            record = self._new_record()
            file.write(record)
        kept = self.open_record(record, index)
        kept.launch_guid = launch_guid
        return SecurityModule(Partition(self, index, tables, kept, file, self.store.bulk_table(index)))

    def run_self_tests(self) -> SelfTestReport:
        """Run every known-answer test now; a failed one leads to the error state, which a later success does not end.

        A device that fails them at its start leaves the state directory alone and has an ephemeral identity.
        """
        report = run_self_tests(self.store)
        if not report.passed:
            self.enter_error_state(f"self-test failed: {', '.join(report.failed)}")
            self.directory.detach()
        return report

    def enter_error_state(self, reason: str) -> None:
        """A self-test failed: from now on no command is carried out (spec 06 §3.5); the first reason is kept."""
        if self.error is None:
            _LOG.critical("error state: %s", reason)
            self.error = reason

    def serial(self, index: int) -> int:
        """64-bit serial number of function `index`, never 0."""
        return (self.record.serial + index) % 2**64 or 2**64 - 1

    def new_partition(self, index: int) -> Kept:
        """What a partition keeps, as new: another identity, nothing else."""
        return self.open_record(self._new_record(), index)

    def open_record(self, record: PartitionRecord, index: int) -> Kept:
        """Make the keys of a record usable; raises StateError if they do not belong to this device."""
        kept = Kept(PartitionIdentity.derive(self.store, self.identity, record.partition_id, index), record)
        try:
            self.store.ec_pairwise_test(kept.identity.key, PairwiseTest.SIGN)
        except PairwiseTestError as error:
            self.enter_error_state(f"pairwise test of the identity key of function {index}: {error}")
        if record.bk_boot is not None:
            owner = Owner(index, Scope.IDENTITY)
            bkx = hierarchy.boot_masking_key(self.store, self.identity.seeds, hierarchy.CURRENT_SVN, owner)
            try:
                kept.bk_boot = masking.unmask_masking_key(self.store, bkx, masking.read(record.bk_boot), owner)
            except masking.UnmaskError as error:
                raise StateError(f"function {index}: the stored BK_BOOT is not of this device") from error
            finally:
                self.store.destroy(bkx)
        return kept

    def _new_record(self) -> PartitionRecord:
        return PartitionRecord(self.store.random(PARTITION_ID_BYTES))

    def _load_record(self) -> DeviceRecord:
        file = self.directory.device_file()
        record = file.read()
        if record is None:
            serial = int.from_bytes(self.store.random(_SERIAL_BYTES), "big") or 1
            record = DeviceRecord(serial, certificates.device_chain(self.store, self.identity))
            file.write(record)
        return record
