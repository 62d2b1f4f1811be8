# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`Store`: one user's keys and what brings their device up again. Nothing here touches a device."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from ihsm import fields
from ihsm.errors import (
    KeyExistsError,
    KeyNotFoundError,
    StoreBusyError,
    StoreDamagedError,
    StoreNotFoundError,
    WrongPinError,
)
from ihsm.locks import try_lock, unlock
from ihsm.store.archive import pack, write_new
from ihsm.store.contents import (
    KEYS,
    keys_folder,
    read_header,
    read_record,
    read_records,
    record_file,
    stems,
    write_record,
)
from ihsm.store.files import Folder, errors_of, is_at_its_path, locked, open_folder, open_lock
from ihsm.store.header import HEADER, ID_BYTES, Header, StoreDevice
from ihsm.store.labels import check_label, check_name, is_name
from ihsm.store.places import check_root, default_name, default_root
from ihsm.store.records import KeyRecord, KeyVersion, encode_record
from ihsm.store.sealing import OwnerSecrets, PinKey, SealedSecrets
from ihsm.store.staging import appear, require_free, root_locked, staging, vanish
from ihsm.store.unlocking import open_seal, pin_required, sealed, unlocked

DEVICE: Final = "device"
"""Folder of the private device's state (`ihsm serve --state`) in the store's."""
_LISTINGS: Final = 8
"""Times that a list of all keys is begun anew because others change them, before the lock is taken for it."""


class Store:
    """An open store. Safe for threads, for programs at the same time, and in a child of fork().

    Reads see one state of a record, old or new, and take no lock. Changes are on the disk when they return; if one is
    killed or raises, the store is as it was. Every method raises StoreError, by kind: StoreNotFoundError (deleted or
    renamed by somebody else), StorePermissionError, StoreDamagedError, StoreBusyError (locked for half a minute).
    """

    def __init__(self, path: Path, header: Header, secrets: OwnerSecrets | None, key: PinKey | None) -> None:
        """Made by `create` and `open`."""
        self.path = path
        """The store's folder."""
        self._header = header
        self._secrets = secrets
        self._key = key

    def __repr__(self) -> str:
        """Name and folder; nothing secret."""
        return f"<Store {self.name!r} at {os.fspath(self.path)!r}>"

    # -- finding, making, opening --------------------------------------------------------------------------------------

    @staticmethod
    def names(root: Path | None = None) -> list[str]:
        """Names of the stores, sorted; those that cannot be opened are among them.

        Raises:
            StoreError: the folder of all stores cannot be read.
        """
        root = root or default_root()
        with errors_of(root, "read"):
            try:
                entries = os.listdir(root)
            except FileNotFoundError:
                return []
            return sorted(name for name in entries if is_name(name) and os.path.lexists(root / name / HEADER))

    @classmethod
    def create(
        cls,
        name: str | None = None,
        *,
        device: StoreDevice,
        secrets: OwnerSecrets,
        masked_bk3: bytes,
        bmk: bytes,
        unwrapping_key: bytes | None,
        identity: bytes,
        pin: str | None = None,
        device_state: Path | None = None,
        root: Path | None = None,
    ) -> Store:
        """Make a store; it appears whole or not at all.

        Args:
            name: None for $IHSM_STORE or "default".
            device: where the device is.
            secrets: what the PIN protects.
            masked_bk3: the masked BK3 that InitBk3 gave (spec 04 §5).
            bmk: the backup masking key as the device gave it.
            unwrapping_key: the masked unwrapping key.
            identity: SHA-256 of the partition's identity key (SubjectPublicKeyInfo), 32 bytes.
            pin: the user's PIN; None leaves everything to the permissions of the files.
            device_state: folder in a `staging` one where the private device that was provisioned kept its state; it is
                moved into the store. The device must have ended.
            root: folder of all stores; None for the user's.

        Raises:
            ArgumentError: a name, PIN or value that cannot be.
            StoreExistsError: there is one of this name.
            StoreError: it cannot be written.
        """
        name = default_name() if name is None else check_name("Store.create", "name", name)
        root = root or default_root()
        header = Header(
            id=os.urandom(ID_BYTES),
            created=fields.now(),
            device=device,
            identity=identity,
            masked_bk3=masked_bk3,
            bmk=bmk,
            unwrapping_key=unwrapping_key,
            owner=secrets,
        )
        with root_locked(root) as folder:
            require_free(folder, name)
        header, key = sealed(header, secrets, pin)
        with staging(root) as path, errors_of(path, "written"):
            with open_folder(path) as folder:
                folder.write(HEADER, header.encode())
                os.mkdir(KEYS, 0o700, dir_fd=folder.descriptor)
                if device_state is not None:
                    os.rename(device_state, DEVICE, dst_dir_fd=folder.descriptor)
                os.close(open_lock(folder))
                folder.sync()
            appear(root, path, name)
        return cls(root / name, header, secrets, key)

    @classmethod
    def open(
        cls, name: str | None = None, *, pin: str | None = None, root: Path | None = None, unlock: bool = True
    ) -> Store:
        """Open a store; takes as long as scrypt does if it has a PIN.

        Args:
            name: None for $IHSM_STORE or "default".
            pin: the user's PIN, if the store has one.
            root: folder of all stores; None for the user's.
            unlock: False leaves the secrets locked and needs no PIN: everything but `secrets`, and changes of what they
                are bound to, works.

        Raises:
            StoreNotFoundError: there is none of this name.
            PinRequiredError: it has a PIN, and none was given.
            WrongPinError: it has another PIN, or none.
            StoreDamagedError: its files are not what was written.
            StorePermissionError: others can get at it, or it is not the user's own.
        """
        name = default_name() if name is None else check_name("Store.open", "name", name)
        path = (root or default_root()) / name
        with _folder(path) as folder:
            check_root(path.parent)
            header = read_header(folder)
        if not unlock and pin is None:
            secrets = None if isinstance(header.owner, SealedSecrets) else header.owner
            return cls(path, header, secrets, None)
        return cls(path, header, *unlocked(name, header, pin))

    # -- what it has ---------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name, which is its folder's."""
        return self.path.name

    @property
    def created(self) -> datetime:
        """When it was made, UTC."""
        return self._header.created

    @property
    def device(self) -> StoreDevice:
        """Where its device is."""
        return self._header.device

    @property
    def identity(self) -> bytes:
        """SHA-256 of the identity key (SubjectPublicKeyInfo) of the partition that it belongs to."""
        return self._header.identity

    @property
    def masked_bk3(self) -> bytes:
        """The masked BK3."""
        return self._header.masked_bk3

    @property
    def bmk(self) -> bytes:
        """The backup masking key as the device gave it last."""
        return self._header.bmk

    @property
    def unwrapping_key(self) -> bytes | None:
        """The masked unwrapping key."""
        return self._header.unwrapping_key

    @property
    def pin_protected(self) -> bool:
        """Whether a PIN protects the secrets; without one the permissions of the files are all there is."""
        return isinstance(self._header.owner, SealedSecrets)

    @property
    def secrets(self) -> OwnerSecrets:
        """What provisions the device again.

        Raises:
            PinRequiredError: the store was opened without its PIN.
        """
        if self._secrets is None:
            raise pin_required(self.name)
        return self._secrets

    def refresh(self) -> None:
        """Read again what other programs may have updated: device, identity, masked BK3, BMK, unwrapping key."""
        with _folder(self.path) as folder:
            self._header = self._same(read_header(folder))

    def update(
        self,
        *,
        bmk: bytes | None = None,
        unwrapping_key: bytes | None = None,
        identity: bytes | None = None,
        device: StoreDevice | None = None,
        masked_bk3: bytes | None = None,
    ) -> None:
        """Replace what is given, all of it at once.

        Raises:
            ArgumentError: a value that cannot be.
            PinRequiredError, WrongPinError: identity or device change, which the PIN seals, and the store was
                opened without the PIN, or with one that was changed meanwhile.
        """
        given = {
            "bmk": bmk,
            "unwrapping_key": unwrapping_key,
            "identity": identity,
            "device": device,
            "masked_bk3": masked_bk3,
        }
        with self._changing() as (folder, _, old):
            new = replace(old, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
            if new.associated != old.associated and isinstance(old.owner, SealedSecrets):
                key, secrets = self._opened(old, old.owner)
                new = replace(new, owner=key.seal(secrets, new.associated))
            if new != old:
                folder.write(HEADER, new.encode())
            self._header = new

    def change_pin(self, old: str | None, new: str | None) -> None:
        """Set another PIN, or the first one (`old` None), or none any more (`new` None).

        Raises:
            ArgumentError: a PIN that cannot be.
            PinRequiredError: the store has a PIN, and `old` is None.
            WrongPinError: `old` is not its PIN.
        """
        with self._changing() as (folder, _, header):
            secrets, _ = unlocked(self.name, header, old)
            header, key = sealed(header, secrets, new)
            folder.write(HEADER, header.encode())
            self._header, self._secrets, self._key = header, secrets, key

    # -- keys ----------------------------------------------------------------------------------------------------------

    def keys(self) -> list[KeyRecord]:
        """All keys, sorted by label; reads each file."""
        with _folder(self.path) as folder, keys_folder(folder) as keys:
            for _ in range(_LISTINGS):
                found = read_records(keys)
                if found is not None:
                    return found
            with locked(folder):
                return read_records(keys) or []

    def key_count(self) -> int:
        """How many keys there are; reads none."""
        with _folder(self.path) as folder, keys_folder(folder) as keys:
            return len(stems(keys))

    def key(self, label: str) -> KeyRecord:
        """One key; reads its file alone.

        Raises:
            KeyNotFoundError: there is none of this label.
        """
        check_label("Store.key", "label", label)
        with _folder(self.path) as folder, keys_folder(folder) as keys:
            return self._read(keys, label)

    def add_key(self, record: KeyRecord) -> None:
        """Add a key.

        Raises:
            KeyExistsError: there is one of its label.
        """
        with self._changing() as (_, keys, _header):
            self._require_new(keys, record.label)
            write_record(keys, record)

    def add_version(self, label: str, version: KeyVersion) -> int:
        """Add a version to a key; its number, one more than that of any version that the key ever had.

        Raises:
            KeyNotFoundError: there is no key of this label.
        """
        check_label("Store.add_version", "label", label)
        with self._changing() as (_, keys, _header):
            record = self._read(keys, label).with_version(version)
            write_record(keys, record)
        return record.newest.version

    def set_certificates(self, label: str, version: int | None, certificates: Sequence[bytes]) -> None:
        """Replace the certificates of a version (DER, leaf first), None being the newest; raises KeyNotFoundError."""
        check_label("Store.set_certificates", "label", label)
        with self._changing() as (_, keys, _header):
            record = self._read(keys, label)
            write_record(keys, record.with_changed(replace(record.version(version), certificates=tuple(certificates))))

    def delete_key(self, label: str, version: int | None = None) -> None:
        """Delete a key, or one version of it; with its last version the key goes. Raises KeyNotFoundError.

        A key whose file is damaged can be deleted as a whole: that is how one gets rid of it.
        """
        check_label("Store.delete_key", "label", label)
        with self._changing() as (_, keys, _header):
            try:
                record = self._read(keys, label)
                rest = None if version is None else record.without_version(version)
            except StoreDamagedError:
                if version is not None:
                    raise
                rest = None
            if rest is None:
                keys.remove(record_file(label))
            else:
                write_record(keys, rest)

    def rename_key(self, old: str, new: str) -> None:
        """Give a key another label.

        Raises:
            KeyNotFoundError: there is no key `old`.
            KeyExistsError: there is a key `new`.
        """
        check_label("Store.rename_key", "old", old)
        check_label("Store.rename_key", "new", new)
        with self._changing() as (_, keys, _header):
            record = self._read(keys, old)
            self._require_new(keys, new)
            # Both labels first; then the file's new name decides, so that one rename is the whole change.
            keys.write(record_file(old), encode_record(record, becomes=new))
            keys.rename(record_file(old), record_file(new))

    # -- the whole store -----------------------------------------------------------------------------------------------

    def rename(self, new: str) -> None:
        """Give the store another name.

        Raises:
            StoreExistsError: there is a store of this name.
            StoreBusyError: its private device runs.
        """
        check_name("Store.rename", "new", new)
        with root_locked(self.path.parent) as root, self._changing() as (folder, _, _header), _device_at_rest(folder):
            require_free(root, new)
            root.rename(self.name, new)
            self.path = self.path.with_name(new)

    def delete(self) -> None:
        """Delete the store with all keys, and its private device's state; nothing brings them back.

        Raises:
            StoreBusyError: its private device runs.
        """
        with root_locked(self.path.parent) as root, self._changing() as (folder, _, _header), _device_at_rest(folder):
            gone = vanish(root, self.name)
            with errors_of(gone, "removed, though it is no store any more"):
                shutil.rmtree(gone)

    def export(self, path: Path) -> None:
        """Write the store to a new tar file, mode 0600, which opens as a store where it is unpacked.

        It has all that the folder has, the private device's state too, but no locks.

        Raises:
            StoreExistsError: there is something at `path`.
            StoreBusyError: the private device runs.
        """
        with self._changing() as (folder, keys, _), _device_at_rest(folder) as device:
            write_new(Path(path), pack(folder, self.name, [keys] if device is None else [keys, device]))

    # -- parts ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self) -> Iterator[tuple[Folder, Folder, Header]]:
        """The folder and that of the keys, locked, without what a killed writer left; and the header as it is now."""
        with _folder(self.path, "changed") as folder, locked(folder):
            if not is_at_its_path(folder):
                raise _no_store(self.path)
            header = self._same(read_header(folder))
            with keys_folder(folder) as keys:
                folder.clean()
                keys.clean()
                yield folder, keys, header

    def _same(self, header: Header) -> Header:
        """The header, unless the folder holds another store by now."""
        if header.id != self._header.id:
            raise StoreNotFoundError(f"{self.path}: another store has this name by now: open it anew")
        return header

    def _opened(self, header: Header, owner: SealedSecrets) -> tuple[PinKey, OwnerSecrets]:
        """Key and secrets of a store that was opened with its PIN."""
        if self._key is None:
            raise pin_required(self.name)
        if not owner.fits(self._key):
            raise WrongPinError(f"store {self.name!r}: its PIN was changed meanwhile: open it anew")
        return self._key, open_seal(header, owner, self._key, self.name)

    def _read(self, keys: Folder, label: str) -> KeyRecord:
        try:
            return read_record(keys, record_file(label))
        except FileNotFoundError:
            raise KeyNotFoundError(f"store {self.name!r} has no key {label!r}; `ihsm key list` shows them") from None

    def _require_new(self, keys: Folder, label: str) -> None:
        if keys.has(record_file(label)):
            raise KeyExistsError(f"store {self.name!r} has a key {label!r}: delete or rename it, or take another label")


@contextlib.contextmanager
def _folder(path: Path, what: str = "read") -> Iterator[Folder]:
    """A store's folder; errors of the system become the store's."""
    with errors_of(path, what):
        try:
            opened = open_folder(path)
        except FileNotFoundError:
            raise _no_store(path) from None
        with opened:
            yield opened


@contextlib.contextmanager
def _device_at_rest(folder: Folder) -> Iterator[Folder | None]:
    """The private device's state, which no device uses meanwhile; None if there is none."""
    if not folder.has(DEVICE):
        yield None
        return
    with folder.folder(DEVICE) as device:
        descriptor = open_lock(device)
        try:
            if not try_lock(descriptor):
                raise StoreBusyError(f"{device.path}: the store's private device runs: end the program that uses it")
            yield device
        finally:
            unlock(descriptor)
            os.close(descriptor)


def _no_store(path: Path) -> StoreNotFoundError:
    return StoreNotFoundError(f"{path}: no store of this name; `ihsm init` makes one")
