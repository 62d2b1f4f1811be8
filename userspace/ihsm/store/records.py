# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A key's record: label, and for each version what it can do, its public key, its masked keys and its certificates."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from ihsm import fields
from ihsm.arguments import octets
from ihsm.errors import ArgumentError, ArgumentTypeError, KeyNotFoundError
from ihsm.store.documents import encode_document
from ihsm.store.labels import check_label, file_stem
from ihsm_abi import json_text

LONGEST_RECORD: Final = 8 << 20
"""Bytes of a key's file; a version with an RSA-4096 key and a chain takes less than 20,000."""
ORIGINS: Final = ("device", "host", "derived")
"""Where a key was made: in the device, on the host and imported, in the device of another key."""
_LONGEST_MASKED: Final = 1 << 16
_LONGEST_PUBLIC: Final = 1 << 16
_LONGEST_CERTIFICATE: Final = 1 << 20
_MOST_VERSIONS: Final = 10**9 - 1
_WORD: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}", re.ASCII)
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n", re.ASCII)
_PEM_LINE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a key; immutable."""

    kind: str
    """Kind of key, such as "p256": a word of lower-case letters, digits, _ and -, which the key API knows."""
    usages: Mapping[str, bytes] = dataclass_field(repr=False)
    """For each usage, such as "sign", the key as the device masked it."""
    public: bytes | None = dataclass_field(default=None, repr=False)
    """DER SubjectPublicKeyInfo; None for a secret key."""
    origin: str = "device"
    """One of ORIGINS."""
    created: datetime = dataclass_field(default_factory=fields.now)
    """UTC, to the second."""
    certificates: tuple[bytes, ...] = dataclass_field(default=(), repr=False)
    """DER, leaf first."""
    attributes: Mapping[str, Any] = dataclass_field(default_factory=dict, repr=False)
    """Whatever else the key API keeps: JSON values."""
    version: int = 1
    """From 1 on; the store gives the number of a version that is added."""

    def __post_init__(self) -> None:
        """Check everything, and make it immutable; raises ArgumentError or ArgumentTypeError."""
        _check(isinstance(self.kind, str) and _WORD.fullmatch(self.kind), "kind", "must be a word")
        _check(isinstance(self.usages, Mapping) and self.usages, "usages", "must be at least one")
        usages = {}
        for usage, masked in self.usages.items():
            _check(isinstance(usage, str) and _WORD.fullmatch(usage), "usages", "must have words as names")
            usages[usage] = _bytes(f"usages[{usage}]", masked, _LONGEST_MASKED)
        _check(self.origin in ORIGINS, "origin", f"must be one of {', '.join(ORIGINS)}")
        _check(
            isinstance(self.created, datetime) and self.created.tzinfo is not None, "created", "must have a time zone"
        )
        _check(type(self.version) is int and 1 <= self.version <= _MOST_VERSIONS, "version", "must be from 1 on")
        _check(isinstance(self.certificates, tuple | list), "certificates", "must be a tuple of bytes")
        put = object.__setattr__
        put(self, "usages", MappingProxyType(usages))
        put(self, "public", None if self.public is None else _bytes("public", self.public, _LONGEST_PUBLIC))
        put(self, "created", self.created.replace(microsecond=0))
        put(self, "certificates", tuple(_bytes("certificates", der, _LONGEST_CERTIFICATE) for der in self.certificates))
        put(self, "attributes", MappingProxyType(_attributes(self.attributes)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Mapping proxies do not copy or pickle; their content does."""
        return _rebuilt, (
            {name: dict(value) if isinstance(value, MappingProxyType) else value for name, value in self._items()},
        )

    def _items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__slots__]

    def _record(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "kind": self.kind,
            "usages": {usage: fields.encode(masked) for usage, masked in self.usages.items()},
            "public": None if self.public is None else fields.encode(self.public),
            "origin": self.origin,
            "created": fields.encode_time(self.created),
            "certificates": [_pem(der) for der in self.certificates],
            "attributes": dict(self.attributes),
        }


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key: its label and its versions, oldest first; immutable."""

    label: str
    versions: tuple[KeyVersion, ...]
    next_version: int = 0
    """Number of the version that is added next, so that a number never means two keys; 0: one more than the newest."""

    def __post_init__(self) -> None:
        """Check it; raises ArgumentError or ArgumentTypeError."""
        check_label("KeyRecord", "label", self.label)
        object.__setattr__(self, "versions", tuple(self.versions))
        for version in self.versions:
            if not isinstance(version, KeyVersion):
                raise ArgumentTypeError("KeyRecord", "versions", f"{type(version).__name__}, must be KeyVersion")
        numbers = [version.version for version in self.versions]
        if not numbers or numbers != sorted(set(numbers)):
            raise ArgumentError("KeyRecord", "versions", "must be at least one, with rising numbers")
        if self.next_version == 0:
            object.__setattr__(self, "next_version", numbers[-1] + 1)
        if type(self.next_version) is not int or not numbers[-1] < self.next_version <= _MOST_VERSIONS + 1:
            raise ArgumentError("KeyRecord", "next_version", "must be above the newest version")

    @property
    def newest(self) -> KeyVersion:
        """The version that the label alone means."""
        return self.versions[-1]

    def version(self, number: int | None = None) -> KeyVersion:
        """One version, or the newest.

        Raises:
            KeyNotFoundError: there is none of this number.
        """
        if number is None:
            return self.newest
        for version in self.versions:
            if version.version == number:
                return version
        have = ", ".join(str(version.version) for version in self.versions[-8:])
        raise KeyNotFoundError(f"key {self.label!r} has no version {number}; it has {have}")

    def with_version(self, version: KeyVersion) -> KeyRecord:
        """The same key with one version more, which gets the next number."""
        number = self.next_version
        return KeyRecord(self.label, (*self.versions, replace(version, version=number)), number + 1)

    def with_changed(self, version: KeyVersion) -> KeyRecord:
        """The same key with this version in the place of the one of its number."""
        same = tuple(version if each.version == version.version else each for each in self.versions)
        return KeyRecord(self.label, same, self.next_version)

    def without_version(self, number: int) -> KeyRecord | None:
        """The same key without a version; None if that was its only one. Raises KeyNotFoundError."""
        gone = self.version(number)
        rest = tuple(version for version in self.versions if version is not gone)
        return KeyRecord(self.label, rest, self.next_version) if rest else None


def encode_record(record: KeyRecord, *, becomes: str | None = None) -> bytes:
    """A record as its file has it.

    `becomes` is the label that the file's next name stands for: a file with two labels has the one that its name
    fits, so that one renaming of the file renames the key.

    Raises:
        ArgumentError: longer than a record may be.
    """
    content: dict[str, Any] = {"label": record.label}
    if becomes is not None:
        content["becomes"] = becomes
    content |= {"next_version": record.next_version, "versions": [version._record() for version in record.versions]}
    data = encode_document(content)
    if len(data) > LONGEST_RECORD:
        raise ArgumentError("key", record.label, f"its record would have {len(data)} bytes, {LONGEST_RECORD} possible")
    return data


def parse_record(plain: Mapping[str, Any], stem: str) -> KeyRecord:
    """The record in the file whose name begins with `stem`; raises ValueError that names the field."""
    fields.only(plain, ("label", "becomes", "next_version", "versions"))
    labels = [fields.field(plain, "label", _label)]
    if "becomes" in plain:
        labels.append(fields.field(plain, "becomes", _label))
    fitting = [label for label in labels if file_stem(label) == stem]
    if not fitting:
        raise ValueError("label: does not belong to the file's name")
    versions = fields.field(plain, "versions", _versions)
    following = fields.field(plain, "next_version", fields.number(2, _MOST_VERSIONS + 1))
    try:
        return KeyRecord(fitting[0], versions, following)
    except ArgumentError as error:
        raise ValueError(f"{error.argument}: numbers do not rise") from None


def _versions(value: Any) -> tuple[KeyVersion, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list")
    return tuple(fields.field({f"{place}": plain}, f"{place}", _version) for place, plain in enumerate(value))


def _version(value: Any) -> KeyVersion:
    plain = fields.table(value)
    fields.only(plain, KeyVersion.__slots__)
    field = fields.field
    return KeyVersion(
        version=field(plain, "version", fields.number(1, _MOST_VERSIONS)),
        kind=field(plain, "kind", _word),
        usages=field(plain, "usages", _usages),
        public=field(plain, "public", fields.optional(fields.octets(1, _LONGEST_PUBLIC))),
        origin=field(plain, "origin", fields.one_of(*ORIGINS)),
        created=field(plain, "created", fields.time_of_day),
        certificates=field(plain, "certificates", _certificates),
        attributes=field(plain, "attributes", fields.table),
    )


def _usages(value: Any) -> dict[str, bytes]:
    plain = fields.table(value)
    if not plain:
        raise ValueError("must have at least one")
    return {_word(usage): fields.field(plain, usage, fields.octets(1, _LONGEST_MASKED)) for usage in plain}


def _certificates(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list")
    return tuple(map(_der, value))


def _der(value: Any) -> bytes:
    match = _PEM.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be certificates in PEM")
    return fields.octets(1, _LONGEST_CERTIFICATE)(match[1].replace("\n", ""))


def _pem(der: bytes) -> str:
    digits = base64.b64encode(der).decode()
    lines = [digits[start : start + _PEM_LINE] for start in range(0, len(digits), _PEM_LINE)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _label(value: Any) -> str:
    try:
        return check_label("record", "label", value)
    except (ArgumentError, ArgumentTypeError):
        raise ValueError("no label") from None


def _word(value: Any) -> str:
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise ValueError("must be a word of lower-case letters, digits, _ and -")
    return value


def _check(holds: object, argument: str, problem: str) -> None:
    if not holds:
        raise ArgumentError("KeyVersion", argument, problem)


def _bytes(argument: str, value: Any, longest: int) -> bytes:
    data = octets("KeyVersion", argument, value)
    _check(1 <= len(data) <= longest, argument, f"{len(data)} bytes, must be 1 to {longest}")
    return data


def _attributes(value: Any) -> dict[str, Any]:
    """A copy that nobody else holds, of what JSON can say."""
    _check(isinstance(value, Mapping), "attributes", "must be a mapping")
    given = dict(value)
    try:
        # As deep as it lies in a record, which must be readable when it is written.
        copy = json_text.parse(json_text.dump([[[[given]]]]))[0][0][0][0]
    except (TypeError, ValueError, RecursionError):
        copy = None
    _check(copy == given, "attributes", "must be JSON values with texts as names")
    return given if copy is None else dict(copy)


def _rebuilt(items: dict[str, Any]) -> KeyVersion:
    return KeyVersion(**items)
