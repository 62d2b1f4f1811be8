# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Reading and writing the files of a store's folder; what is not as it was written is StoreDamagedError."""

from __future__ import annotations

import re
from typing import Final

from ihsm.store.documents import damaged, parse_document
from ihsm.store.files import Folder
from ihsm.store.header import HEADER, LONGEST_HEADER, Header, parse_header
from ihsm.store.labels import file_stem
from ihsm.store.records import LONGEST_RECORD, KeyRecord, encode_record, parse_record

KEYS: Final = "keys"
_SUFFIX: Final = ".json"
_RECORD_NAME: Final = re.compile(r"([0-9a-f]{32})\.json", re.ASCII)


def read_header(folder: Folder) -> Header:
    """What store.json says.

    Raises:
        StoreDamagedError: it is missing, or not what was written.
        StoreError: made by a newer version, or unsafe.
    """
    path = folder.path / HEADER
    try:
        data = folder.read(HEADER, LONGEST_HEADER)
    except FileNotFoundError:
        raise damaged(path, "missing") from None
    content = parse_document(data, path)
    problem = ""
    try:
        return parse_header(content)
    except ValueError as error:
        problem = str(error)
    # Outside of the handler, so that no secret hangs on the error as its context.
    raise damaged(path, problem)


def keys_folder(folder: Folder) -> Folder:
    """The folder of the keys in a store's; raises StoreDamagedError if it is missing, and as `open_folder`."""
    try:
        return folder.folder(KEYS)
    except FileNotFoundError:
        raise damaged(folder.path / KEYS, "missing") from None


def read_record(keys: Folder, name: str) -> KeyRecord:
    """One key's record; raises FileNotFoundError if there is none, else StoreError."""
    path = keys.path / name
    content = parse_document(keys.read(name, LONGEST_RECORD), path)
    try:
        return parse_record(content, name.removesuffix(_SUFFIX))
    except ValueError as error:
        raise damaged(path, str(error)) from None


def read_records(keys: Folder) -> list[KeyRecord] | None:
    """All records, sorted; None if files came or went meanwhile: a renamed key may be missing, or be there twice."""
    before = stems(keys)
    try:
        records = [read_record(keys, stem + _SUFFIX) for stem in before]
    except FileNotFoundError:
        return None
    return sorted(records, key=lambda record: record.label) if stems(keys) == before else None


def stems(keys: Folder) -> set[str]:
    """Names of the keys' files, before their ending."""
    return {match[1] for name in keys.names() if (match := _RECORD_NAME.fullmatch(name))}


def record_file(label: str) -> str:
    """Name of the file of a key."""
    return file_stem(label) + _SUFFIX


def write_record(keys: Folder, record: KeyRecord) -> None:
    """Write a key's file; the caller has the store's lock."""
    keys.write(record_file(record.label), encode_record(record))
