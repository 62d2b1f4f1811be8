# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`Hsm`: a store and its device, with keys by name."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm import ddi
from ihsm.api import making
from ihsm.api.attest import VerifiedReport
from ihsm.api.certificates import chain_of
from ihsm.api.connection import Connection
from ihsm.api.devices import PRIVATE, device_for
from ihsm.api.facts import KeyFacts
from ihsm.api.handles import DeviceKey, Handle
from ihsm.api.kinds import KINDS, kind_of, usages_of
from ihsm.api.objects import HsmKey, key_object
from ihsm.api.provisioning import DEFAULT_OPTIONS, provision
from ihsm.api.stored import stored
from ihsm.arguments import Octets, seconds
from ihsm.closing import Closing
from ihsm.driver import DriverOptions
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    EmbeddedDeviceError,
    IhsmError,
    KeyExistsError,
    KeyNotFoundError,
    StoreDamagedError,
)
from ihsm.kept import Kept
from ihsm.store import KeyRecord, KeyVersion, Store, check_label, split_label

_log = logging.getLogger(__name__)

PRIVATE_STORE: Final = "private"


class Hsm(Closing):
    """Keys of a store, in its device. A context manager; may be used from any thread.

    >>> with Hsm.open() as hsm:
    ...     key = hsm.generate("web", "p256", usage="sign")
    ...     signature = key.sign(b"message", ec.ECDSA(hashes.SHA256()))
    """

    def __init__(self, store: Store, connection: Connection) -> None:
        """Made by `open`, `create` and `private`."""
        self.store = store
        self.connection = connection
        self._scratch: Kept | None = None

    @classmethod
    def open(
        cls,
        store: str | None = None,
        *,
        device: str | None = None,
        pin: str | None = None,
        wait_s: float = 0.0,
        options: DriverOptions | None = None,
        root: Path | None = None,
    ) -> Hsm:
        """Open a store and its device.

        Args:
            store: name of the store; None: $IHSM_STORE, or "default".
            device: URI; None: $IHSM_DEVICE, else the store's own device, which is started if it is a private one.
            pin: the store's PIN, if it has one.
            wait_s: how long to wait for a device that another program has, in seconds.
            options: of the driver.
            root: folder of the stores, for tests; None: the user's.

        Raises:
            StoreNotFoundError: there is no such store; `Hsm.create`, or `ihsm init`, makes one.
            WrongPinError, PinRequiredError: before any device is touched.
            UnknownDeviceError: at the store's address is another device than the store's; it was left alone.
            KeysLostError: the device cannot read what the store keeps.
            DeviceBusyError, StoreBusyError: another program has the device.
            IhsmError: the device cannot be reached, started or brought up.
        """
        wait_s = seconds("Hsm.open", "wait_s", wait_s)
        opened = Store.open(store, pin=pin, root=root)
        return cls._connected(opened, device, wait_s, options)

    @classmethod
    def create(
        cls,
        store: str | None = None,
        *,
        device: str | None = None,
        pin: str | None = None,
        wait_s: float = 0.0,
        options: DriverOptions | None = None,
        owner_key: ec.EllipticCurvePrivateKey | None = None,
        bk3: Octets | None = None,
        credential: ddi.Credential | None = None,
        root: Path | None = None,
    ) -> Hsm:
        """Provision a device, make a store for it, and open both. What is not described here is as for `open`.

        Args:
            pin: guards what provisions the device again.
            device: URI; None: $IHSM_DEVICE, else the one free device found, else a private one of the store's own.
            owner_key: P-384 key that endorses the partition; None: a new one, kept in the store.
            bk3: the owner's backup key, 48 bytes; None: random.
            credential: of the device, which is not the user's PIN and is kept in the store; None: random.

        Raises:
            StoreExistsError: there is a store of this name.
            IhsmError: the device cannot be reached, started, brought up or provisioned; there is no store then. If
                another program takes the device just after that, there is one, to be opened later.
        """
        wait_s = seconds("Hsm.create", "wait_s", wait_s)
        made = provision(
            store,
            device=device,
            pin=pin,
            wait_s=wait_s,
            options=options,
            owner_key=owner_key,
            bk3=bk3,
            credential=credential,
            root=root,
        )
        return cls._connected(made, device, wait_s, options)

    @classmethod
    def private(cls, *, options: DriverOptions | None = None) -> Hsm:
        """A private device with a store of its own, both gone with the object: for tests and for trying things.

        Raises:
            EmbeddedDeviceError: the device, or a folder for it, cannot be had.
            IhsmError: the device cannot be brought up or provisioned.
        """
        try:
            scratch = Kept("ihsm-store-")
        except OSError as error:
            raise EmbeddedDeviceError(
                f"Hsm.private: no temporary folder for the store: {error.strerror or error}; TMPDIR names another place"
            ) from None
        try:
            hsm = cls.create(PRIVATE_STORE, device=PRIVATE, options=options, root=scratch.folder)
        except BaseException:
            scratch.close()
            raise
        hsm._scratch = scratch
        return hsm

    @classmethod
    def _connected(cls, store: Store, device: str | None, wait_s: float, options: DriverOptions | None) -> Hsm:
        chosen = device_for(store, device, options or DEFAULT_OPTIONS, wait_s)
        return cls(store, Connection(store, chosen))

    def close(self) -> None:
        """End the session and let go of the device, a private one ends; harmless the second time."""
        try:
            self.connection.close()
        finally:
            if self._scratch is not None:
                self._scratch.close()

    # -- keys ----------------------------------------------------------------------------------------------------------

    def generate(self, label: str, kind: str, *, usage: str | Collection[str] | None = None) -> HsmKey:
        """Make a key, kept in the store when this returns.

        Args:
            label: its name, 1 to 128 bytes of UTF-8.
            kind: p256, p384, p521, rsa2048, rsa3072, rsa4096, aes128, aes192, aes256 (CBC), aes256-gcm, aes256-xts.
            usage: "sign", "agree", "decrypt" or "encrypt"; None: the kind's first. An RSA key can have "sign" and
                "decrypt": the device allows a key one usage, so it is imported twice.

        Raises:
            KeyExistsError: the store has a key of this label.
            ArgumentError: no such kind, or a usage that it does not have.
            IhsmError: the device refuses, or the store cannot be written; the store is as it was.
        """
        chosen = kind_of("generate", kind)
        usages = usages_of("generate", chosen, usage)
        self._require_new("generate", label)
        version = self.connection.run(making.making(label, chosen, usages))
        return self._added(label, version)

    def import_key(
        self,
        label: str,
        key: making.PrivateKey | Octets,
        *,
        kind: str | None = None,
        usage: str | Collection[str] | None = None,
        password: Octets | None = None,
        certificates: Sequence[bytes] = (),
    ) -> HsmKey:
        """Bring a key into the device; `origin` says that it was made outside.

        Args:
            label: its name.
            key: private key of pyca/cryptography, one in PEM or DER, or with an AES `kind` its bytes (of AES-XTS data
                key and tweak key, 64 bytes).
            kind: as for `generate`; needed for AES, else it is a check.
            usage: as for `generate`.
            password: of an encrypted PEM or DER.
            certificates: DER, the key's own first, kept with the key.

        Raises:
            KeyExistsError, ArgumentError, ArgumentTypeError, UnsupportedByDeviceError, IhsmError: see `generate`.
        """
        chosen, parsed = making.parse_key(key, kind, password)
        usages = usages_of("import_key", chosen, usage)
        payloads = making.payloads_of(chosen, parsed)
        chain = chain_of("import_key", certificates, None if isinstance(parsed, bytes) else parsed.public_key())
        self._require_new("import_key", label)
        version = self.connection.run(making.importing(label, chosen, usages, payloads))
        return self._added(label, replace(version, certificates=chain))

    def keep(self, label: str, key: DeviceKey) -> HsmKey:
        """Keep a key that was derived from another (`agree`, `hkdf`, `kbkdf`), so that it is there tomorrow.

        Returns:
            The key under its label; the one given goes on working.

        Raises:
            KeyExistsError: the store has a key of this label.
            ArgumentError, ArgumentTypeError: the key is in a store already, or is none of this Hsm.
        """
        if not isinstance(key, DeviceKey):
            raise ArgumentTypeError("keep", "key", f"{type(key).__name__}, must be a derived key of this Hsm")
        if key._handle.connection is not self.connection:
            raise ArgumentError("keep", "key", f"{key.facts.name} is of another Hsm")
        if key.facts.label is not None:
            raise ArgumentError("keep", "key", f"{key.facts.name} is in the store already")
        self._require_new("keep", label)
        kind, (usage,) = KINDS[key.facts.kind], key.facts.usages
        masked = dict(zip(making.parts_of(kind, [usage]), key._handle.need("keep", usage), strict=True))
        return self._added(label, KeyVersion(kind=kind.name, usages=masked, origin="derived"))

    def rotate(self, label: str) -> HsmKey:
        """Make a new version of a key, of the same kind and usages; older ones stay usable as "label@version".

        Raises:
            KeyNotFoundError: the store has no key of this label.
            UnsupportedByDeviceError: keys of this kind are only derived.
        """
        record = self.store.key(label)
        kind, masked = stored(self.store.name, label, record.newest)
        kind_of("rotate", kind.name)
        version = self.connection.run(making.making(label, kind, tuple(masked)))
        number = self.store.add_version(label, version)
        return self._object(label, replace(version, version=number))

    def __getitem__(self, name: str) -> HsmKey:
        """A key by its label, "web", or one version of it, "web@1"; KeyNotFoundError (a KeyError) if there is none."""
        label, number = split_label(name)
        return self._object(label, self.store.key(label).version(number))

    def __contains__(self, name: object) -> bool:
        """Whether there is a key of this label, or this version of one."""
        if not isinstance(name, str):
            return False
        try:
            label, number = split_label(name)
            self.store.key(label).version(number)
        except (KeyNotFoundError, ValueError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        """The labels, sorted."""
        return iter([record.label for record in self.store.keys()])  # noqa: SIM118

    def __len__(self) -> int:
        """Number of labels."""
        return self.store.key_count()

    def delete(self, name: str) -> None:
        """Delete a key with all its versions, or one version ("web@1"), for good.

        Whoever uses it at this moment is waited for; key objects that are left raise KeyNotFoundError.

        Raises:
            KeyNotFoundError: there is none.
        """
        label, number = split_label(name)
        gone: tuple[KeyVersion, ...] = ()
        try:
            record = self.store.key(label)
            gone = record.versions if number is None else (record.version(number),)
        except StoreDamagedError:
            if number is not None:
                raise
        self.store.delete_key(label, number)
        masked = [each for version in gone for each in version.usages.values()]
        try:
            self.connection.run(lambda link: link.residents.drop(masked))
        except IhsmError as error:  # what it had of the key goes when the device comes back
            _log.warning("key %s is deleted; the device could not be told: %s", name, error)

    def rename(self, old: str, new: str) -> None:
        """Give a key another label; KeyNotFoundError, KeyExistsError."""
        self.store.rename_key(old, new)

    def set_certificates(self, name: str, certificates: Sequence[Octets]) -> None:
        """Keep certificates (DER, the key's own first) with a key or a version of it, in place of those that it has.

        Raises:
            KeyNotFoundError: there is none.
            ArgumentError, ArgumentTypeError: something is no certificate, or the first one is another key's.
        """
        label, number = split_label(name)
        version = self.store.key(label).version(number)
        public = None if version.public is None else load_der_public_key(version.public)
        chain = chain_of("set_certificates", certificates, public)
        self.store.set_certificates(label, version.version, chain)

    def attest(self, key: str | DeviceKey, report_data: Octets = b"") -> VerifiedReport:
        """The device's report on a key, verified: that it made it, or that it was imported, and what it is for.

        Args:
            key: label, "label@version", or key object.
            report_data: up to 128 bytes of the verifier's, such as a nonce.

        Raises:
            AttestationError, CertificateChainError: it does not verify.
        """
        found = cast(DeviceKey, self[key]) if isinstance(key, str) else key
        if not isinstance(found, DeviceKey):
            raise ArgumentTypeError("attest", "key", f"{type(key).__name__}, must be a label or a key of this Hsm")
        return found.attest(report_data)

    def _require_new(self, operation: str, label: str) -> None:
        """Refused before the device makes anything; the store looks again."""
        check_label(operation, "label", label)
        try:
            self.store.key(label)
        except KeyNotFoundError:
            return
        raise KeyExistsError(
            f"{operation}: store {self.store.name!r} has a key {label!r}, which is not replaced: delete or rename it, "
            "rotate it, or take another label"
        )

    def _added(self, label: str, version: KeyVersion) -> HsmKey:
        self.store.add_key(KeyRecord(label, (version,)))
        return self._object(label, version)

    def _object(self, label: str, version: KeyVersion) -> HsmKey:
        kind, masked = stored(self.store.name, label, version)
        facts = KeyFacts(
            kind=kind.name,
            usages=tuple(masked),
            origin=version.origin,
            label=label,
            version=version.version,
            certificates=version.certificates,
            public=version.public,
        )
        return key_object(kind, Handle(self.connection, facts.name, masked), facts)
