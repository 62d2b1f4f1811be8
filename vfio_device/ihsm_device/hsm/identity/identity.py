# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Identity: every key and name of the device follows from one device-unique secret (spec 06 §1.5, §1.8)."""

import base64
from dataclasses import dataclass
from typing import Final

from ihsm_device.hsm.identity.hierarchy import BackupSeeds, derive
from ihsm_device.hsm.keystore import Curve, Handle, Hash, KeyStore, Owner, Scope
from ihsm_device.hsm.wire import P384, Point

PARTITION_ID_BYTES: Final = 16
_NAME_BYTES: Final = 48
_CERTIFICATE_SERIAL_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class LayerIdentity:
    """A key of the device that signs certificates: Device ID (layer 0) or the alias below it (layer 1)."""

    key: Handle
    point: Point
    common_name: str
    """Base64 of 48 bytes: exactly 64 characters."""
    serial_number: int
    """Of its certificate."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What follows from the device-unique secret."""

    secret: Handle
    device_id: LayerIdentity
    alias: LayerIdentity
    seeds: BackupSeeds

    @classmethod
    def from_secret(cls, store: KeyStore, secret: Handle) -> "DeviceIdentity":
        """Derive everything."""
        return cls(
            secret=secret,
            device_id=_layer(store, secret, b"DeviceID"),
            alias=_layer(store, secret, b"CPAlias"),
            seeds=BackupSeeds.from_device_secret(store, secret),
        )


@dataclass(frozen=True, slots=True)
class PartitionIdentity:
    """The key that certifies a partition, signs its encryption keys and its attestation reports."""

    partition_id: bytes
    key: Handle
    point: Point

    @classmethod
    def derive(cls, store: KeyStore, device: DeviceIdentity, partition_id: bytes, function: int) -> "PartitionIdentity":
        """The identity of a partition id; whoever uses it tests the pair first."""
        owner = Owner(function, Scope.IDENTITY)
        key = store.ec_derive(Curve.P384, device.secret, b"PartitionID", [partition_id], owner)
        return cls(partition_id, key, Point.from_uncompressed(P384, store.ec_public(key)))


def attestation_alias(store: KeyStore, device: DeviceIdentity, firmware_id: bytes) -> LayerIdentity:
    """The alias that proves over a mailbox: another key for other firmware (spec 06 §1.5)."""
    return _layer(store, device.secret, b"SPAlias", firmware_id)


def _layer(store: KeyStore, secret: Handle, label: bytes, *context: bytes) -> LayerIdentity:
    owner = Owner(scope=Scope.DEVICE)
    key = store.ec_derive(Curve.P384, secret, label, context, owner)
    naming_key = derive(store, secret, b"SerialNumber", [label, *context], _NAME_BYTES, owner)
    name = store.hmac(naming_key, Hash.SHA384, b"SERIAL\0RIOT")
    store.destroy(naming_key)
    return LayerIdentity(
        key=key,
        point=Point.from_uncompressed(P384, store.ec_public(key)),
        common_name=base64.b64encode(name).decode(),
        serial_number=int.from_bytes(name[:_CERTIFICATE_SERIAL_BYTES], "big"),
    )
