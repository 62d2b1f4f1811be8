# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What outlives the process: the state directory of `--state DIR`.

    DIR/lock                 held while a process uses the directory
    DIR/device.secret        the device-unique secret, written and read by the key store alone
    DIR/device.json          serial number and certificates of the device
    DIR/partition-N.json     identity number, leaf certificate, masked BK_BOOT and sealed BK3 of function N

Every file has mode 0600 and is replaced atomically: a process killed at any moment leaves the old content or the new.
No secret is in the JSON files: BK_BOOT is masked under a key that follows from the device secret.
The secret's file ends with its SHA-256, the JSON files with an HMAC (`records.py`); both are verified at each reading.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ihsm_device import state_files
from ihsm_device.errors import StateError
from ihsm_device.hsm.device.records import DeviceRecord, PartitionRecord, RecordFile
from ihsm_device.hsm.identity import hierarchy
from ihsm_device.hsm.keystore import Handle, Hash, KeyStore, KeyStoreError, Owner, Scope
from ihsm_device.state_lock import StateLock, require_private

_SECRET_BYTES: Final = 48
_HMAC_KEY_BYTES: Final = 48


class StateDirectory:
    """The directory, locked for this process; `None` as path stands for no directory and an ephemeral device."""

    def __init__(self, path: Path | None, lock: StateLock | None = None) -> None:
        """Create or open the directory and lock it; raises StateError.

        A `lock` that was taken before is taken over.
        """
        self.path = path
        self._store: KeyStore | None = None
        self._hmac_key: Handle | None = None
        self._lock = lock if path is None or lock is not None else StateLock(path)
        if path is None:
            return
        try:
            require_private(path, path.stat(), os.geteuid())
        except OSError as error:
            self.close()
            raise StateError(f"{path}: cannot be used ({error.strerror})") from error
        except StateError:
            self.close()
            raise

    def detach(self) -> None:
        """Keep nothing from now on; what is stored stays as it is, and locked."""
        self.path = None

    def close(self) -> None:
        """Let other processes use the directory."""
        if self._lock is not None:
            self._lock.close()

    def device_secret(self, store: KeyStore, owner: Owner) -> Handle:
        """The device-unique secret, made now if the directory is new; record files can be used from now on.

        Raises:
            StateError: the secret cannot be had, or is missing although there are records made with it.
        """
        secret = self._secret(store, owner)
        device = Owner(scope=Scope.DEVICE)
        self._store = store
        self._hmac_key = hierarchy.derive(store, secret, b"StateFiles", [], _HMAC_KEY_BYTES, device)
        return secret

    def _secret(self, store: KeyStore, owner: Owner) -> Handle:
        if self.path is None:
            return store.generate_secret(_SECRET_BYTES, owner)
        path = self.path / state_files.SECRET
        try:
            if os.path.lexists(path):
                return store.load_device_secret(str(path), owner)
            if os.path.lexists(self.path / state_files.DEVICE) or next(self.partition_indices(), None) is not None:
                raise StateError(f"{path}: missing, although there are records of a device made with it")
            return store.create_device_secret(str(path), owner)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}") from error
        except KeyStoreError as error:
            text = str(error)
            raise StateError(text if text.startswith(str(path)) else f"{path}: {text}") from error

    def device_file(self) -> RecordFile[DeviceRecord]:
        """Where the device's record is kept."""
        return RecordFile(self.path and self.path / state_files.DEVICE, DeviceRecord, self._seal)

    def partition_file(self, index: int) -> RecordFile[PartitionRecord]:
        """Where the record of function `index` is kept."""
        return RecordFile(self.path and self.path / state_files.partition(index), PartitionRecord, self._seal)

    def partition_indices(self) -> Iterator[int]:
        """Functions that have a file, whether this process serves them or not; raises StateError."""
        if self.path is None:
            return
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            raise StateError(f"{self.path}: cannot be read ({error.strerror})") from error
        for name in names:
            if (index := state_files.partition_index(name)) is not None:
                yield index

    def _seal(self, data: bytes) -> bytes:
        assert self._store is not None, "the device secret comes before the records"
        assert self._hmac_key is not None
        return self._store.hmac(self._hmac_key, Hash.SHA384, data)
