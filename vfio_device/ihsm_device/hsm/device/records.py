# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of the state directory and their files: JSON with an HMAC whose key follows from the device secret.

The HMAC covers the file's name too, so that a flipped bit, a cut, a file of another device and one of another function
are all noticed. A file is exactly what `RecordFile.write` makes of its record, byte for byte, or it is refused.
Releases before format 2 wrote the same fields without an HMAC; `takeover.py` reads those.
"""

import contextlib
import os
import reprlib
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from ihsm_abi import json_text
from ihsm_abi.ddi.limits import SEALED_BK3_MAX_BYTES
from ihsm_device import state_files
from ihsm_device.errors import StateError
from ihsm_device.hsm.identity import PARTITION_ID_BYTES
from ihsm_device.state_lock import require_private

FORMAT_VERSION: Final = 2
UNPROTECTED_VERSION: Final = 1
"""Files of version 0.1, without an HMAC."""
MAX_FILE_BYTES: Final = 1 << 16
"""More than any record takes; what is larger is not read."""
_HMAC: Final = "hmac"
_DEVICE_CERTIFICATES: Final = 2
_MAX_CERTIFICATE_BYTES: Final = 4096
_MAX_MASKED_BYTES: Final = 1024

Seal = Callable[[bytes], bytes]
"""HMAC of some bytes under the key of the state files."""


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
    seal: Seal
    _stored: bytes | None = field(default=None, init=False)
    """What was read or written last, to be put back."""

    def read(self) -> R | None:
        """The stored record, None if there is none; raises StateError for a file that is not one."""
        found = self._load()
        if found is None:
            return None
        data, plain = found
        record = self._record(plain, FORMAT_VERSION)
        if not compare_digest(self._encode(record), data):
            raise StateError(f"{self.path}: damaged, or of another device or function (the HMAC does not match)")
        return record

    def read_unprotected(self) -> R | None:
        """The record of a file without an HMAC, None if there is no file or it has one; raises StateError."""
        found = self._load()
        if found is None or found[1].get("format") != UNPROTECTED_VERSION:
            return None
        return self._record(found[1], UNPROTECTED_VERSION)

    def write(self, record: R) -> None:
        """Replace the stored record, durably; raises StateError, and then what was stored is stored."""
        if self.path is None:
            return
        try:
            data = self._encode(record)
            _replace(self.path, data)
            try:
                _sync_directory(self.path.parent)
            except OSError:
                self._put_back()
                raise
            self._stored = data
        except OSError as error:
            raise StateError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _put_back(self) -> None:
        """The new content has its name already, and will be refused: the next start must not find it."""
        assert self.path is not None
        with contextlib.suppress(OSError):
            if self._stored is None:
                self.path.unlink()
            else:
                _replace(self.path, self._stored)

    def _load(self) -> tuple[bytes, dict[str, Any]] | None:
        """Bytes of the file and the JSON object in it."""
        if self.path is None:
            return None
        try:
            self._stored = data = _read_private(self.path)
            plain = json_text.parse(data)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise StateError(f"{self.path}: damaged, not JSON ({error})") from error
        if not isinstance(plain, dict):
            raise StateError(f"{self.path}: damaged, not a JSON object")
        return data, plain

    def _record(self, plain: dict[str, Any], version: int) -> R:
        try:
            form = plain.get("format")
            if type(form) is int and form > FORMAT_VERSION:
                raise StateError(
                    f"{self.path}: made by a newer version of ihsm (format {_short(form)}, this one knows "
                    f"{FORMAT_VERSION}): use that version"
                )
            if type(form) is not int or form != version:
                raise ValueError(f"format {_short(form)} instead of {version}")
            if plain.get("record") != self.type.__name__:
                raise ValueError(f"record {_short(plain.get('record'))}")
            parsers = _PARSERS[self.type]
            return self.type(**{each.name: _field(plain, each.name, parsers) for each in fields(self.type)})
        except ValueError as error:
            raise StateError(f"{self.path}: damaged, not a {self.type.__name__} ({error})") from error

    def _encode(self, record: R) -> bytes:
        assert self.path is not None
        plain = {name: _plain(value) for name, value in asdict(record).items()}
        plain = {"format": FORMAT_VERSION, "record": self.type.__name__} | plain
        sealed = self.seal(os.fsencode(self.path.name) + b"\0" + json_text.dump(plain).encode())
        return json_text.dump(plain | {_HMAC: sealed.hex()}, indent=1).encode() + b"\n"


def _read_private(path: Path) -> bytes:
    # Neither a link nor a pipe, a device or an endless file is followed, waited for or read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(f"{path}: not a regular file")
        require_private(path, status, os.geteuid())
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise StateError(f"{path}: damaged, longer than {MAX_FILE_BYTES} bytes")
    return data


def _replace(path: Path, data: bytes) -> None:
    """Write a file beside one, put it on the disk and give it that name; raises OSError, and nothing is left then."""
    temporary = path.with_name(path.name + state_files.TEMPORARY)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


# -- fields ------------------------------------------------------------------------------------------------------------

Parser = Callable[[object], object]


def _field(plain: dict[str, Any], name: str, parsers: dict[str, Parser]) -> Any:
    if name not in plain:
        raise ValueError(f"{name} is missing")
    try:
        return parsers[name](plain[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _short(value: object) -> str:
    """A value of unknown kind and size, for an error message of one line."""
    return reprlib.repr(value)


def _serial(value: object) -> int:
    if type(value) is not int or not 1 <= value < 1 << 64:
        raise ValueError(f"{_short(value)} is no serial number")
    return value


def _octets(shortest: int, longest: int) -> Parser:
    def parse(value: object) -> bytes:
        if not isinstance(value, str):
            raise ValueError(f"{_short(value)} is no hexadecimal text")
        data = bytes.fromhex(value)
        if not shortest <= len(data) <= longest:
            raise ValueError(f"{len(data)} bytes are not {shortest} to {longest}")
        return data

    return parse


def _optional(parser: Parser) -> Parser:
    return lambda value: None if value is None else parser(value)


def _certificates(value: object) -> tuple[object, ...]:
    if not isinstance(value, list) or len(value) != _DEVICE_CERTIFICATES:
        raise ValueError(f"{_short(value)} is no list of {_DEVICE_CERTIFICATES} certificates")
    return tuple(map(_certificate, value))


_certificate: Final = _octets(1, _MAX_CERTIFICATE_BYTES)
_PARSERS: Final[dict[type, dict[str, Parser]]] = {
    DeviceRecord: {"serial": _serial, "certificates": _certificates},
    PartitionRecord: {
        "partition_id": _octets(PARTITION_ID_BYTES, PARTITION_ID_BYTES),
        "leaf": _optional(_certificate),
        "bk_boot": _optional(_octets(1, _MAX_MASKED_BYTES)),
        "sealed_bk3": _optional(_octets(0, SEALED_BK3_MAX_BYTES)),
    },
}
