# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What outlives the process: the state directory of `--state DIR`.

    DIR/lock                 held while a process uses the directory
    DIR/device.secret        the device-unique secret, written and read by the key store alone
    DIR/device.json          serial number and certificates of the device
    DIR/partition-N.json     identity number, leaf certificate, masked BK_BOOT and sealed BK3 of function N

Every file has mode 0600 and is replaced atomically: a process killed at any moment leaves the old content or the new.
No secret is in the JSON files: BK_BOOT is masked under a key that follows from the device secret.
"""

import fcntl
import json
import os
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from ihsm_device.hsm.keystore import Handle, KeyStore, Owner, StateFileError

FORMAT_VERSION: Final = 1
_OWNER_ONLY: Final = stat.S_IRWXG | stat.S_IRWXO
_SECRET_BYTES: Final = 48
_TEMPORARY: Final = ".new"


class StateError(Exception):
    """The state directory cannot be used; the text names the path and what is wrong."""


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """Public facts of the device."""

    serial: int
    """64-bit serial number of function 0, never 0."""
    certificates: tuple[bytes, ...]
    """DER, from the root to the alias that signs the partitions' certificates."""


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """What a partition keeps until its next partition reset."""

    partition_id: bytes
    """16 random bytes from which the identity key is derived."""
    leaf: bytes | None = None
    """DER of the partition's certificate, once it was asked for."""
    bk_boot: bytes | None = None
    """BK_BOOT, masked."""
    sealed_bk3: bytes | None = None


R = TypeVar("R", DeviceRecord, PartitionRecord)


@dataclass(slots=True)
class RecordFile(Generic[R]):
    """A record and its file; without a path the record lives in memory only."""

    path: Path | None
    type: type[R]

    def read(self) -> R | None:
        """The stored record, None if there is none; raises StateError for a file that is not one."""
        if self.path is None or not self.path.exists():
            return None
        _require_private(self.path)
        try:
            return _from_json(self.type, json.loads(self.path.read_bytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"{self.path}: not a {self.type.__name__} of format {FORMAT_VERSION} ({error})") from error

    def write(self, record: R) -> None:
        """Replace the stored record, durably; raises StateError."""
        if self.path is None:
            return
        temporary = self.path.with_name(self.path.name + _TEMPORARY)
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(_to_json(record), indent=1).encode() + b"\n")
                file.flush()
                os.fsync(descriptor)
            temporary.rename(self.path)
            _sync_directory(self.path.parent)
        except OSError as error:
            raise StateError(f"{self.path}: cannot be written ({error.strerror})") from error


class StateDirectory:
    """The directory, locked for this process; `None` as path stands for no directory and an ephemeral device."""

    def __init__(self, path: Path | None) -> None:
        """Create or open the directory and lock it; raises StateError."""
        self.path = path
        self._lock: int | None = None
        if path is None:
            return
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(path)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StateError(f"{path}: in use by another process") from error
        except OSError as error:
            self.close()
            raise StateError(f"{path}: cannot be used ({error.strerror})") from error

    def detach(self) -> None:
        """Keep nothing from now on; what is stored stays as it is, and locked."""
        self.path = None

    def close(self) -> None:
        """Let other processes use the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def device_secret(self, store: KeyStore, owner: Owner) -> Handle:
        """The device-unique secret, made now if the directory is new; raises StateError."""
        if self.path is None:
            return store.generate_secret(_SECRET_BYTES, owner)
        path = self.path / "device.secret"
        try:
            if path.exists():
                return store.load_device_secret(str(path), owner)
            if self.device_file().read() is not None:
                raise StateError(f"{path}: missing, although the device has certificates made with it")
            return store.create_device_secret(str(path), owner)
        except (StateFileError, OSError) as error:
            raise StateError(f"{path}: {error}") from error

    def device_file(self) -> RecordFile[DeviceRecord]:
        """Where the device's record is kept."""
        return RecordFile(self.path and self.path / "device.json", DeviceRecord)

    def partition_file(self, index: int) -> RecordFile[PartitionRecord]:
        """Where the record of function `index` is kept."""
        return RecordFile(self.path and self.path / f"partition-{index}.json", PartitionRecord)


def _require_private(path: Path) -> None:
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise StateError(f"{path}: belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & _OWNER_ONLY:
        raise StateError(f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others in, remove their permissions")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_json(record: DeviceRecord | PartitionRecord) -> dict[str, Any]:
    plain = {name: _plain(value) for name, value in asdict(record).items()}
    return {"format": FORMAT_VERSION, "record": type(record).__name__} | plain


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _from_json(cls: type[R], plain: dict[str, Any]) -> R:
    if plain["format"] != FORMAT_VERSION or plain["record"] != cls.__name__:
        raise ValueError(f"format {plain['format']}, record {plain['record']}")
    return cls(**{field.name: _value(plain[field.name]) for field in fields(cls)})


def _value(plain: object) -> Any:
    if isinstance(plain, str):
        return bytes.fromhex(plain)
    return tuple(_value(part) for part in plain) if isinstance(plain, list) else plain
