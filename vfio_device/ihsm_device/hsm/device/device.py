# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all functions of one server process share: key store, identity, profile, unwrapping keys in stock."""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from ihsm_abi.ddi import DeviceKind
from ihsm_device.errors import StateError
from ihsm_device.hsm.device.records import DeviceRecord
from ihsm_device.hsm.device.state import StateDirectory
from ihsm_device.hsm.device.takeover import take_over
from ihsm_device.hsm.device.unwrapping_stock import UnwrappingKeyStock
from ihsm_device.hsm.identity import DeviceIdentity, certificates
from ihsm_device.hsm.keystore import KeyStore, Owner, Scope, SelfTestReport, run_self_tests
from ihsm_device.hsm.profile import DEFAULT, Profile
from ihsm_device.hsm.wire import DIALECTS
from ihsm_device.state_lock import StateLock

_SERIAL_BYTES: Final = 8
_log = logging.getLogger(__name__)


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
    express: bool = True
    """Commands that change no state are carried out without Python."""


class HsmDevice:
    """The shared part; one per process, because the key store is."""

    open_function: ClassVar[Callable[["HsmDevice", int, int, bytes], Any]]
    """Opens the security module of a function; set by `ihsm_device.hsm`, for modules stand above the device."""

    def __init__(
        self,
        options: DeviceOptions | None = None,
        *,
        store: KeyStore | None = None,
        state_lock: StateLock | None = None,
    ) -> None:
        """Start: open the state, derive the identity, run the self-tests.

        `store` is closed with the device, whoever opened it, and so is the `state_lock` of whoever has it already.

        Raises:
            StateError: the state directory is damaged, in use, or accessible to others.
        """
        self.options = options or DeviceOptions()
        self.profile = self.options.profile
        self.dialect = DIALECTS[self.options.kind]
        self.error: str | None = None
        """Why the device is in its error state; None while it works."""
        self._fips_approved = self.options.fips_approved
        self._on_change: list[Callable[[], None]] = []
        with contextlib.ExitStack() as opened:
            self.directory = StateDirectory(self.options.state, state_lock)
            opened.callback(self.directory.close)
            self.store = store or KeyStore(validation_hooks=self.options.validation_hooks)
            opened.callback(self.store.close)
            self.self_tests = self.run_self_tests()
            secret = self.directory.device_secret(self.store, Owner(scope=Scope.DEVICE))
            self.identity = DeviceIdentity.from_secret(self.store, secret)
            take_over(self.directory, self.store, self.identity)
            self.record = self._load_record()
            self.unwrapping_keys = UnwrappingKeyStock(self.store, self.enter_error_state)
            self._opened = opened.pop_all()

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

    def function(self, index: int = 0, tables: int = 1, launch_guid: bytes = bytes(16)) -> Any:
        """The `SecurityModule` of function `index` (from 0) with `tables` key tables.

        Raises:
            StateError: the function's file in the state directory is damaged.
        """
        return type(self).open_function(self, index, tables, launch_guid)

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
            _log.critical("error state: %s", reason)
            self.error = reason
            self._changed()

    @property
    def fips_approved(self) -> bool:
        """FIPS state that responses report."""
        return self._fips_approved

    @fips_approved.setter
    def fips_approved(self, fips: bool) -> None:
        self._fips_approved = fips
        self._changed()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call this when the error state has been entered or the FIPS state has changed; now for the first time."""
        self._on_change.append(changed)
        changed()

    def _changed(self) -> None:
        for changed in self._on_change:
            changed()

    def serial(self, index: int) -> int:
        """64-bit serial number of function `index`, never 0."""
        return (self.record.serial + index) % 2**64 or 2**64 - 1

    def _load_record(self) -> DeviceRecord:
        file = self.directory.device_file()
        record = file.read()
        if record is None:
            if next(self.directory.partition_indices(), None) is not None:
                raise StateError(f"{file.path}: missing, although there are records of its functions")
            serial = int.from_bytes(self.store.random(_SERIAL_BYTES), "big") or 1
            record = DeviceRecord(serial, certificates.device_chain(self.store, self.identity))
            file.write(record)
        return record
