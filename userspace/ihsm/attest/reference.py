# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""References: what a device that one trusts has measured, and where another one differs.

A reference is a JSON document. It holds blocks with their data, and the files of the package that runs in the device,
so that a difference in code is told by the file's name. Blocks that may differ can be taken out of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

from ihsm import fields
from ihsm.attest.blocks import CONFIGURATION_BLOCK, FILE_COUNT_BLOCK, NAMES, MeasuredBlock
from ihsm.attest.errors import ReferenceFileError
from ihsm.attest.evidence import Evidence
from ihsm_abi import json_text
from ihsm_abi.spdm import manifest
from ihsm_abi.spdm.manifest import CONTROL_BLOCK, DIGEST_BYTES, FAST_BLOCK, FILES_BLOCK, TRUST_BLOCK, MeasuredFile
from ihsm_abi.spdm.measurements import FIRST_BLOCK, LAST_BLOCK

FORMAT: Final = 1
_KIND: Final = "ihsm attestation reference"
_IMAGES: Final = (TRUST_BLOCK, CONTROL_BLOCK, FAST_BLOCK)
_MAX_DATA_BYTES: Final = 0xFFFF
_MAX_TYPE: Final = 0x7F
_MAX_FILES: Final = 10_000
_MAX_PATH: Final = 512
_SHOWN_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Difference:
    """A block that is not as the reference has it."""

    block: int
    detail: str
    """In what it differs; of what the device says there are ASCII characters alone."""
    files: tuple[str, ...] = ()
    """Paths of the package whose file is another, or missing."""

    @property
    def name(self) -> str:
        """What the block is of."""
        return NAMES[self.block]


@dataclass(frozen=True, slots=True)
class Reference:
    """What is expected of a device."""

    blocks: tuple[MeasuredBlock, ...]
    """In the order of their numbers, each at most once."""
    files: tuple[MeasuredFile, ...] = ()
    """The device's code in the order of paths; none if it was not at hand when the reference was made."""

    @classmethod
    def of(cls, evidence: Evidence) -> Self:
        """Of a device that one trusts; with the files of the package installed here, if it is what the device runs.

        Raises:
            OSError: one of its files cannot be read.
        """
        return cls(evidence.blocks, _files_of(evidence))

    @property
    def code_absent(self) -> tuple[int, ...]:
        """Blocks of code that are not in it: whatever code there is in a device, they do not differ."""
        present = {block.index for block in self.blocks}
        return tuple(index for index in _IMAGES if index not in present)

    def encode(self) -> bytes:
        """The reference as its file has it."""
        document = {
            "kind": _KIND,
            "format": FORMAT,
            "blocks": [
                {"block": block.index, "name": block.name, "type": block.type, "data": block.data.hex()}
                for block in self.blocks
            ],
            "files": [{"path": file.path, "sha384": file.digest.hex()} for file in self.files],
        }
        return json_text.dump(document, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """The reference in a file.

        Raises:
            ReferenceFileError: it is none; the message begins with `name`.
        """
        try:
            plain = fields.table(json_text.parse(data, unique=True))
            fields.only(plain, ("kind", "format", "blocks", "files"))
            if plain.get("kind") != _KIND:
                raise ValueError(f"not made by ihsm attest --write-reference: kind must be {_KIND!r}")
            fields.field(plain, "format", fields.number(FORMAT, FORMAT))
            blocks = fields.field(plain, "blocks", _list(_block, LAST_BLOCK))
            files = fields.field(plain, "files", _list(_file, _MAX_FILES))
            if not blocks:
                raise ValueError("blocks: there is none to compare with")
            _in_order("blocks", blocks, lambda block: block.index)
            _in_order("files", files, lambda file: file.path)
            reference = cls(tuple(blocks), tuple(files))
            reference._check_files()
        except ValueError as error:
            raise ReferenceFileError(f"{name}: no reference: {error}") from None
        return reference

    def differences(self, evidence: Evidence) -> tuple[Difference, ...]:
        """Where a device is not as this reference has it, in the order of blocks."""
        shorts = evidence.block(FILES_BLOCK).data
        return tuple(
            self._difference(expected, evidence.block(expected.index), shorts)
            for expected in self.blocks
            if evidence.block(expected.index) != expected
        )

    def _difference(self, expected: MeasuredBlock, found: MeasuredBlock, shorts: bytes) -> Difference:
        index = expected.index
        if expected.type != found.type:
            return Difference(index, f"type {found.type}, the reference has {expected.type}")
        if index in _IMAGES:
            return self._code(index, shorts)
        if index == FILES_BLOCK:
            return Difference(index, self._listed(shorts))
        if index == FILE_COUNT_BLOCK:
            counts = [int.from_bytes(block.data, "little") for block in (found, expected)]
            return Difference(index, f"{counts[0]}, the reference has {counts[1]}")
        if index == CONFIGURATION_BLOCK:
            ours, theirs = _settings(expected.data), _settings(found.data)
            if ours and theirs and ours != theirs:
                return Difference(index, _compared(ours, theirs))
        return Difference(index, f"{_shown(found.content)}, the reference has {_shown(expected.content)}")

    def _code(self, index: int, shorts: bytes) -> Difference:
        """The files of an image that are not those of the reference."""
        if not self.files:
            return Difference(index, "other code; the reference has no list of files")
        paths, unknown = manifest.changed(self.files, shorts)
        blocks = {file.path: file.block for file in self.files}
        ours = tuple(path for path in paths if blocks[path] == index)
        if ours:
            return Difference(index, f"other or missing: {_first(ours)}", ours)
        more = max(unknown - len(paths), 0)
        detail = f"{more} more in the device" if more else "the device's list of files does not say which"
        return Difference(index, f"no file of the reference differs; {detail}")

    def _listed(self, shorts: bytes) -> str:
        if not self.files:
            return "other files; the reference has no list of files"
        paths, unknown = manifest.changed(self.files, shorts)
        return f"{len(paths)} of the reference's {len(self.files)} files not there, {unknown} that it does not have"

    def _check_files(self) -> None:
        """Raise ValueError if the list of files does not belong to the blocks."""
        if not self.files:
            return
        data = {block.index: block.content for block in self.blocks}
        expected = {index: manifest.image_digest(self.files, index) for index in _IMAGES}
        expected[FILES_BLOCK] = manifest.short_digests(self.files)
        for index, value in expected.items():
            if data.get(index, value) != value:
                raise ValueError(f"files: not those of block {index}")


def _files_of(evidence: Evidence) -> tuple[MeasuredFile, ...]:
    """The files of the package that is installed here; none where there is none, or another than the device's."""
    try:
        files = manifest.measure(manifest.installed())
    except ModuleNotFoundError:
        return ()
    same = manifest.short_digests(files) == evidence.block(FILES_BLOCK).data and all(
        manifest.image_digest(files, index) == evidence.block(index).content for index in _IMAGES
    )
    return files if same else ()


def _list(parser: fields.Parser[Any], longest: int) -> fields.Parser[list[Any]]:
    def parse(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > longest:
            raise ValueError(f"must be a list of at most {longest}")
        return [fields.item(value, number, parser) for number in range(len(value))]

    return parse


def _block(value: Any) -> MeasuredBlock:
    record = fields.table(value)
    fields.only(record, ("block", "name", "type", "data"))
    index = fields.field(record, "block", fields.number(FIRST_BLOCK, LAST_BLOCK))
    if record.get("name") != NAMES[index]:  # people read the name, and take blocks out by it
        raise ValueError(f"name: block {index} is {NAMES[index]!r}")
    return MeasuredBlock(
        index,
        fields.field(record, "type", fields.number(0, _MAX_TYPE)),
        fields.field(record, "data", _octets),
    )


def _octets(value: Any) -> bytes:
    if isinstance(value, str) and value.isascii() and len(value) <= 2 * _MAX_DATA_BYTES:
        try:
            return bytes.fromhex(value)
        except ValueError:
            pass
    raise ValueError(f"must be hexadecimal digits of at most {_MAX_DATA_BYTES} bytes")


def _file(value: Any) -> MeasuredFile:
    record = fields.table(value)
    fields.only(record, ("path", "sha384"))
    return MeasuredFile(
        fields.field(record, "path", _path), fields.field(record, "sha384", fields.hexadecimal(DIGEST_BYTES))
    )


def _path(value: Any) -> str:
    """A path, which will be shown on terminals."""
    path = fields.text(value)
    if not path or len(path) > _MAX_PATH or not path.isprintable():
        raise ValueError(f"must be a path of 1 to {_MAX_PATH} printable characters")
    return path


def _in_order(name: str, values: Sequence[Any], key: Callable[[Any], Any]) -> None:
    if any(key(one) >= key(other) for one, other in pairwise(values)):
        raise ValueError(f"{name}: not in order, or one of them twice")


def _settings(data: bytes) -> dict[str, str]:
    """Leaves of a JSON object by their dotted names, in ASCII; nothing if it is none."""
    try:
        value = json_text.parse(data)
    except ValueError:
        return {}
    return dict(_leaves(value, "")) if isinstance(value, dict) else {}


def _leaves(value: Mapping[str, Any], above: str) -> Iterable[tuple[str, str]]:
    for name, each in value.items():
        path = f"{above}{ascii(name)[1:-1]}"
        if isinstance(each, dict) and each:
            yield from _leaves(each, f"{path}.")
        else:
            yield path, json_text.dump(each)


def _compared(expected: Mapping[str, str], found: Mapping[str, str]) -> str:
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    missing = "nothing"
    parts = [f"{name} {found.get(name, missing)}, the reference has {expected.get(name, missing)}" for name in names]
    return "; ".join(parts)  # all of them: one that weakens the device must not hide among others


def _first(paths: Sequence[str], most: int = 8) -> str:
    """The paths, as far as they fit into a line; `Difference.files` has all."""
    more = f", and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(paths[:most]) + more


def _shown(data: bytes) -> str:
    """Data for people: as text if they are one."""
    if data and len(data) <= 2 * _SHOWN_BYTES and all(0x20 <= byte < 0x7F for byte in data):
        return repr(data.decode())
    if len(data) > _SHOWN_BYTES:
        digest = hashlib.sha384(data).digest()[:_SHOWN_BYTES].hex()
        return f"{data[:_SHOWN_BYTES].hex()}… ({len(data)} bytes, SHA-384 {digest}…)"
    return data.hex() or "nothing"
