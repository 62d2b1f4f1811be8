# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`store.json`: which device the store belongs to, what brings it up again, and the owner's secrets, sealed or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, cast

from ihsm import fields
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm.store.documents import FORMAT, encode_document
from ihsm.store.sealing import OwnerSecrets, SealedSecrets, owner_record, parse_owner
from ihsm_abi import json_text

HEADER: Final = "store.json"
LONGEST_HEADER: Final = 1 << 20
ID_BYTES: Final = 16
IDENTITY_BYTES: Final = 32
LONGEST_BLOB: Final = 1 << 16
"""Bytes of what the device masks; it gives about a thousand."""
_LONGEST_URI: Final = 8192


@dataclass(frozen=True, slots=True)
class StoreDevice:
    """Where the store's device is: a private one, whose state lies in the store, or one that has a URI."""

    kind: Literal["private", "uri"]
    uri: str | None = None

    def __post_init__(self) -> None:
        """Check it; raises ArgumentError."""
        if self.kind not in ("private", "uri") or (self.kind == "uri") != isinstance(self.uri, str):
            raise ArgumentError("StoreDevice", "kind", 'must be "private", or "uri" with a URI')
        if self.uri is not None and not 1 <= len(self.uri) <= _LONGEST_URI:
            raise ArgumentError("StoreDevice", "uri", f"must have 1 to {_LONGEST_URI} characters")

    @classmethod
    def private(cls) -> StoreDevice:
        """A private device of the store's own."""
        return cls("private")

    @classmethod
    def at(cls, uri: str) -> StoreDevice:
        """A device that somebody else runs, as `--device` names it."""
        return cls("uri", uri)

    def __str__(self) -> str:
        """As it is shown to the user."""
        return self.kind if self.uri is None else self.uri

    def record(self) -> dict[str, str]:
        """For a file."""
        return {"kind": self.kind} if self.uri is None else {"kind": self.kind, "uri": self.uri}


@dataclass(frozen=True, slots=True)
class Header:
    """The content of `store.json`."""

    id: bytes
    """Random; the store's name is its folder's and can be changed, this cannot."""
    created: datetime
    device: StoreDevice
    identity: bytes
    """SHA-256 of the SubjectPublicKeyInfo of the partition's identity key."""
    masked_bk3: bytes = field(repr=False)
    bmk: bytes = field(repr=False)
    unwrapping_key: bytes | None = field(repr=False)
    owner: OwnerSecrets | SealedSecrets

    def __post_init__(self) -> None:
        """Check what callers give; raises ArgumentError or ArgumentTypeError."""
        _octets("masked_bk3", self.masked_bk3, 1, LONGEST_BLOB)
        _octets("bmk", self.bmk, 1, LONGEST_BLOB)
        if self.unwrapping_key is not None:
            _octets("unwrapping_key", self.unwrapping_key, 1, LONGEST_BLOB)
        _octets("identity", self.identity, IDENTITY_BYTES, IDENTITY_BYTES)
        if not isinstance(self.device, StoreDevice):
            raise ArgumentTypeError("store", "device", f"{type(self.device).__name__}, must be StoreDevice")
        if not isinstance(self.owner, OwnerSecrets | SealedSecrets):
            raise ArgumentTypeError("store", "secrets", f"{type(self.owner).__name__}, must be OwnerSecrets")

    @property
    def associated(self) -> bytes:
        """What the seal covers beside the secrets: what names the store, and the device that it trusts."""
        named = {
            "format": FORMAT,
            "id": self.id.hex(),
            "device": self.device.record(),
            "identity": self.identity.hex(),
        }
        return json_text.dump(named).encode()

    def encode(self) -> bytes:
        """As the file has it."""
        content = {
            "id": self.id.hex(),
            "created": fields.encode_time(self.created),
            "device": self.device.record(),
            "identity": self.identity.hex(),
            "masked_bk3": fields.encode(self.masked_bk3),
            "bmk": fields.encode(self.bmk),
            "unwrapping_key": None if self.unwrapping_key is None else fields.encode(self.unwrapping_key),
            "owner": owner_record(self.owner),
        }
        return encode_document(content)


def parse_header(plain: Mapping[str, Any]) -> Header:
    """What the object in the file says; raises ValueError that names the field."""
    get = fields.field
    blob = fields.octets(1, LONGEST_BLOB)
    fields.only(plain, Header.__slots__)
    return Header(
        id=get(plain, "id", fields.hexadecimal(ID_BYTES)),
        created=get(plain, "created", fields.time_of_day),
        device=get(plain, "device", _device),
        identity=get(plain, "identity", fields.hexadecimal(IDENTITY_BYTES)),
        masked_bk3=get(plain, "masked_bk3", blob),
        bmk=get(plain, "bmk", blob),
        unwrapping_key=get(plain, "unwrapping_key", fields.optional(blob)),
        owner=get(plain, "owner", parse_owner),
    )


def _device(value: Any) -> StoreDevice:
    plain = fields.table(value)
    kind = fields.field(plain, "kind", fields.one_of("private", "uri"))
    if kind == "private":
        fields.only(plain, ("kind",))
        return StoreDevice.private()
    fields.only(plain, ("kind", "uri"))
    uri = fields.field(plain, "uri", _uri)
    return StoreDevice(cast('Literal["uri"]', kind), uri)


def _uri(value: Any) -> str:
    # A path in it may have bytes that are no text, which JSON has as \udc80 to \udcff.
    if not isinstance(value, str) or not 1 <= len(value) <= _LONGEST_URI:
        raise ValueError(f"must be a text of 1 to {_LONGEST_URI} characters")
    return value


def _octets(name: str, value: Any, shortest: int, longest: int) -> None:
    if not isinstance(value, bytes):
        raise ArgumentTypeError("store", name, f"{type(value).__name__}, must be bytes")
    if not shortest <= len(value) <= longest:
        raise ArgumentError("store", name, f"{len(value)} bytes, must be {shortest} to {longest}")
