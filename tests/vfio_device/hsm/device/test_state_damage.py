# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Damage to a state directory: each kind is refused in one line that names the file, and changes nothing.

The damage is done to a directory as this version writes it, and to one as version 0.1 did, without HMACs.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm_abi.ddi import DeviceKind
from ihsm_device.hsm.device import DeviceOptions, HsmDevice, PartitionRecord, RecordFile, StateError
from ihsm_device.hsm.device.records import DeviceRecord
from support.hsm import Scene

SEALED = bytes(range(100))
FUNCTIONS: Final = 2
RECORDS: Final = ("device.json", "partition-0.json", "partition-1.json")

Files = dict[str, bytes]


def contents(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "lock"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """What a directory with two provisioned functions holds."""
    folder = tmp_path_factory.mktemp("state")
    with HsmDevice(DeviceOptions(kind=DeviceKind.Virtual, state=folder)) as device:
        for index in range(FUNCTIONS):
            scene = Scene(device.function(index))
            scene.client.certificate_chain()
            scene.provision()
            scene.client.set_sealed_bk3(SEALED + bytes([index]))
    return contents(folder)


@pytest.fixture
def folder(tmp_path: Path, sound: Files) -> Iterator[Path]:
    put(tmp_path / "state", sound)
    return tmp_path / "state"


def put(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)


def old_form(data: bytes) -> bytes:
    """A record file as version 0.1 wrote it."""
    plain = json.loads(data)
    del plain["hmac"]
    return json.dumps(plain | {"format": 1}, indent=1).encode() + b"\n"


def as_version_0_1(files: Files) -> Files:
    return {name: old_form(data) if name in RECORDS else data for name, data in files.items()}


def start(folder: Path) -> list[tuple[list[bytes], bytes | None]]:
    """Chain and sealed BK3 of each function of a device that has the directory; the chains are verified."""
    with HsmDevice(DeviceOptions(kind=DeviceKind.Virtual, state=folder)) as device:
        answers = []
        for index in range(FUNCTIONS):
            scene = Scene(device.function(index))
            chain = scene.client.certificate_chain()
            chain.verify()
            answers.append((list(chain.der), scene.client.sealed_bk3()))
        return answers


def refused(folder: Path, culprit: str = "") -> str:
    """The one line with which a start is refused; nothing in the directory has changed then."""
    before = contents(folder)
    with pytest.raises(StateError) as caught:
        start(folder)
    assert contents(folder) == before
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    assert str(folder / culprit) in text
    return text


def set_field(name: str, value: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | {name: value}, indent=1).encode() + b"\n"


def without(name: str, data: bytes) -> bytes:
    return json.dumps({field: value for field, value in json.loads(data).items() if field != name}).encode()


WRONG_VALUES: Final[list[Any]] = [
    None, 0, -1, 2**70, 10**400, 1.5, True, "", "00", "zz", "0", "ff" * 5000, [], ["00"], {}, [["00"]], [None, None],
    ["00", "00"], "00" * 16, "é\n\0", [1, 2], {"a": {"b": []}},
]  # fmt: skip
WRONG_TEXTS: Final = [
    b"", b"\n", b"[]", b"null", b"1", b"{}", b'"format"', b"[" * 5000, b'{"a":' * 5000, b"\xff\xfe", b"\0" * 100,
    b'{"format":1}', b'{"format":2}', b'{"format":NaN}', b'{"format":1e999}', b'{"format":true}', b"{" + b" " * 100000,
    '{"format": 2}'.encode("utf-16"), b"\xef\xbb\xbf{}", b"9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_no_flipped_bit_of_a_record_is_accepted(folder: Path, sound: Files, name: str) -> None:
    """Anywhere, and at the ends of each hexadecimal number."""
    data, dice = sound[name], random.Random(3)
    marks = [match.span() for match in re.finditer(rb"[0-9a-f]{32,}", data)]
    ends = [position for begin, end in marks for position in (begin, end - 1, end)]
    for position in [*ends, *dice.sample(range(len(data)), 20)]:
        spoilt = bytearray(data)
        spoilt[position] ^= 1 << dice.randrange(8)
        (folder / name).write_bytes(spoilt)
        refused(folder, name)
    (folder / name).write_bytes(data)
    start(folder)


@pytest.mark.parametrize("name", [*RECORDS, "device.secret"])
def test_no_cut_or_longer_file_is_accepted(folder: Path, sound: Files, name: str) -> None:
    data = sound[name]
    lengths = [0, 1, len(data) - 1, len(data) - 2, *random.Random(4).sample(range(len(data)), 6)]
    for spoilt in (*(data[:length] for length in lengths), data + b"\n", data + b"\0", data * 2, data + b" " * 100_000):
        (folder / name).write_bytes(spoilt)
        refused(folder, name)


def unprovable(field: str, value: Any) -> bool:
    """What version 0.1 could have written, and only an HMAC tells from what it did write."""
    fits: dict[str, Callable[[Any], bool]] = {
        "leaf": lambda value: value is None,
        "bk_boot": lambda value: value is None,
        "sealed_bk3": lambda value: value in (None, "", "00", "00" * 16),
    }
    return field in fits and fits[field](value)


@pytest.mark.parametrize("name", ["device.json", "partition-0.json"])
def test_wrong_types_and_values_are_not_taken_over(folder: Path, sound: Files, name: str) -> None:
    old = as_version_0_1(sound)
    put(folder, old)
    for field in json.loads(old[name]):
        for value in WRONG_VALUES:
            if not unprovable(field, value) and json.loads(old[name])[field] != value:
                (folder / name).write_bytes(set_field(field, value)(old[name]))
                refused(folder, name)
        (folder / name).write_bytes(without(field, old[name]))
        refused(folder, name)


WELL_FORMED: Final[dict[str, list[Any]]] = {
    "certificates": [["00", "00"]],
    "partition_id": ["00" * 16],
    "leaf": [None, "00", "00" * 16],
    "bk_boot": [None, "00", "00" * 16],
    "sealed_bk3": [None, "", "00", "00" * 16],
}
"""Those of `WRONG_VALUES` that only an HMAC, a signature or a tag shows to be wrong."""


@pytest.mark.parametrize(("name", "kind"), [("device.json", DeviceRecord), ("partition-0.json", PartitionRecord)])
def test_types_and_values_are_looked_at_though_the_hmac_matches(
    folder: Path, sound: Files, name: str, kind: type[Any]
) -> None:
    file: RecordFile[Any] = RecordFile(folder / name, kind, lambda data: b"")
    data = set_field("hmac", "")(sound[name])
    (folder / name).write_bytes(data)
    assert file.read() is not None
    for field, right in json.loads(data).items():
        for value in WRONG_VALUES:
            if value not in WELL_FORMED.get(field, []) and right != value:
                (folder / name).write_bytes(set_field(field, value)(data))
                with pytest.raises(StateError, match=str(folder / name)):
                    file.read()
        (folder / name).write_bytes(without(field, data))
        with pytest.raises(StateError, match=str(folder / name)):
            file.read()


@pytest.mark.parametrize("name", ["device.json", "partition-0.json"])
@pytest.mark.parametrize("text", WRONG_TEXTS, ids=lambda text: repr(text[:12]))
def test_other_texts_are_refused(folder: Path, name: str, text: bytes) -> None:
    (folder / name).write_bytes(text)
    refused(folder, name)


@pytest.mark.parametrize("name", ["device.json", "partition-0.json"])
def test_files_of_a_newer_version_are_told_as_such_and_left_alone(folder: Path, sound: Files, name: str) -> None:
    """Who goes back to an older version has lost nothing, and is not told that something is damaged."""
    newer = sound | {name: set_field("format", 3)(set_field("more", 1)(sound[name]))}
    put(folder, newer)
    said = refused(folder, name)
    assert "made by a newer version of ihsm (format 3, this one knows 2)" in said
    assert "damaged" not in said
    assert contents(folder) == newer


def test_another_spelling_of_the_same_record_is_no_record(folder: Path, sound: Files) -> None:
    """What this version did not write, byte for byte, was changed by somebody."""
    data = sound["partition-0.json"]
    plain = json.loads(data)
    for spoilt in (
        json.dumps(plain).encode(),
        json.dumps(plain, indent=1).encode(),
        json.dumps(plain | {"more": 1}, indent=1).encode() + b"\n",
        data.replace(plain["hmac"].encode(), plain["hmac"].upper().encode()),
        data.replace(b'"format": 2', b'"format": 2, "format": 2'),
    ):
        assert spoilt != data
        (folder / "partition-0.json").write_bytes(spoilt)
        refused(folder, "partition-0.json")


def test_files_of_another_function_or_device_are_refused(folder: Path, sound: Files, tmp_path: Path) -> None:
    first, second = folder / "partition-0.json", folder / "partition-1.json"
    first.write_bytes(sound["partition-1.json"])
    second.write_bytes(sound["partition-0.json"])
    refused(folder, "partition-0.json")
    other = tmp_path / "other"
    with HsmDevice(DeviceOptions(kind=DeviceKind.Virtual, state=other)) as device:
        device.function(0)
    for name in ("device.json", "partition-0.json"):
        put(folder, sound | {name: (other / name).read_bytes()})
        refused(folder, name)
    put(folder, sound | {"device.secret": (other / "device.secret").read_bytes()})
    refused(folder, "device.json")


@pytest.mark.parametrize("name", ["device.json", "device.secret"])
def test_what_is_missing_is_not_made_anew(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "missing" in refused(folder, name)
    assert not (folder / name).exists()


def test_a_secret_is_missed_by_a_partition_alone(folder: Path) -> None:
    (folder / "device.secret").unlink()
    (folder / "device.json").unlink()
    assert "missing" in refused(folder, "device.secret")


@pytest.mark.parametrize("name", ["device.json", "partition-0.json", "device.secret"])
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("nowhere", path), lambda path: os.symlink("/dev/zero", path)],
    ids=["pipe", "folder", "broken-link", "link-to-a-device"],
)
def test_what_is_no_regular_file_is_refused(folder: Path, make: Callable[[Path], None], name: str) -> None:
    (folder / name).unlink()
    make(folder / name)
    (folder / name).chmod(0o600, follow_symlinks=False) if not (folder / name).is_symlink() else None
    refused(folder, name)


def test_a_directory_of_version_0_1_is_taken_over_once(
    folder: Path, sound: Files, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder, sound)
    expected = start(folder)
    put(folder, as_version_0_1(sound))
    for lines in (1, 0):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert start(folder) == expected
        assert len([record for record in caplog.records if "taken over" in record.message]) == lines
    assert contents(folder) == sound


def test_a_function_that_nobody_has_used_is_taken_over(tmp_path: Path) -> None:
    """It has no certificate and no BK_BOOT that could be verified, only its identity."""
    options = DeviceOptions(state=tmp_path / "state")

    def identity() -> bytes:
        with HsmDevice(options) as device:
            return device.function(0).partition.kept.identity.partition_id

    expected = identity()
    unused = contents(tmp_path / "state")
    assert json.loads(unused["partition-0.json"])["leaf"] is json.loads(unused["partition-0.json"])["bk_boot"] is None
    put(tmp_path / "state", as_version_0_1(unused))
    assert identity() == expected
    assert contents(tmp_path / "state") == unused


def test_files_without_an_hmac_are_refused_after_the_take_over(folder: Path, sound: Files) -> None:
    for name in ("partition-0.json", "partition-1.json"):
        put(folder, sound | {name: old_form(sound[name])})
        refused(folder, name)


def test_a_take_over_that_was_cut_short_goes_on(folder: Path, sound: Files) -> None:
    expected = start(folder)
    put(folder, as_version_0_1(sound) | {"partition-0.json": sound["partition-0.json"]})
    assert start(folder) == expected
    assert contents(folder) == sound


def test_a_take_over_verifies_what_was_done_of_it(folder: Path, sound: Files) -> None:
    spoilt = sound["partition-0.json"].replace(b'"sealed_bk3": "0', b'"sealed_bk3": "1')
    put(folder, as_version_0_1(sound) | {"partition-0.json": spoilt})
    refused(folder, "partition-0.json")


@pytest.mark.parametrize(("name", "field"), [("device.json", "certificates"), ("partition-1.json", "leaf")])
def test_a_flipped_bit_in_a_certificate_is_not_taken_over(folder: Path, sound: Files, name: str, field: str) -> None:
    """Its signature, its key or its form shows it, in every byte; no other file is written either."""
    old = as_version_0_1(sound)
    plain = json.loads(old[name])
    certificate = plain[field] if isinstance(plain[field], str) else plain[field][1]
    dice = random.Random(5)
    for position in [*range(0, 40, 2), *dice.sample(range(len(certificate) // 2), 20)]:
        flipped = bytearray(bytes.fromhex(certificate))
        flipped[position] ^= 1 << dice.randrange(8)
        put(folder, old | {name: old[name].replace(certificate.encode(), flipped.hex().encode())})
        refused(folder, name)


def test_a_spoilt_boot_key_or_identity_is_not_taken_over(folder: Path, sound: Files) -> None:
    old = as_version_0_1(sound)
    for field in ("bk_boot", "partition_id"):
        value = json.loads(old["partition-0.json"])[field]
        for position in random.Random(6).sample(range(len(value)), 8):
            digit = format(int(value[position], 16) ^ 1, "x")
            spoilt = value[:position] + digit + value[position + 1 :]
            put(folder, old | {"partition-0.json": set_field(field, spoilt)(old["partition-0.json"])})
            refused(folder, "partition-0.json")


def test_a_take_over_without_room_loses_nothing(folder: Path, sound: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = start(folder)
    put(folder, as_version_0_1(sound))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left"):
        start(folder)
    monkeypatch.undo()
    assert start(folder) == expected
