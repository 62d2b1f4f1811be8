# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of keys: what can be kept comes back as it was, what cannot is refused where it is made."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from ihsm.errors import ArgumentError, KeyNotFoundError, WrongArgumentError
from ihsm.store import ORIGINS, KeyRecord, KeyVersion
from ihsm.store.documents import parse_document
from ihsm.store.labels import file_stem
from ihsm.store.records import encode_record, parse_record
from support.stores import a_key, a_version

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
VERSIONS = st.builds(
    KeyVersion,
    kind=WORDS,
    usages=st.dictionaries(WORDS, st.binary(min_size=1, max_size=100), min_size=1, max_size=3),
    public=st.none() | st.binary(min_size=1, max_size=200),
    origin=st.sampled_from(ORIGINS),
    created=st.datetimes(timezones=st.just(UTC)),
    certificates=st.lists(st.binary(min_size=1, max_size=200), max_size=3).map(tuple),
    attributes=st.dictionaries(st.text(), JSON, max_size=3),
    version=st.integers(1, 10**9 - 1),
)


def read(data: bytes, label: str) -> KeyRecord:
    return parse_record(parse_document(data, Path("record")), file_stem(label))


@given(VERSIONS)
def test_a_record_comes_back_as_it_was(version: KeyVersion) -> None:
    record = KeyRecord("web", (version,))
    assert read(encode_record(record), "web") == record
    assert pickle.loads(pickle.dumps(record)) == record
    assert copy.deepcopy(record) == record


def test_certificates_are_pem_that_other_programs_read() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    day = datetime(2025, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day + timedelta(days=1))
    der = builder.sign(key, SHA256()).public_bytes(serialization.Encoding.DER)
    data = encode_record(KeyRecord("web", (replace(a_version(), certificates=(der, der)),)))
    pems = parse_document(data, Path("record"))["versions"][0]["certificates"]
    assert [x509.load_pem_x509_certificate(pem.encode()).public_bytes(serialization.Encoding.DER) for pem in pems] == [
        der,
        der,
    ]
    assert read(data, "web").newest.certificates == (der, der)


def test_times_are_utc_to_the_second() -> None:
    moment = datetime(2025, 3, 1, 1, 30, 15, 999999, timezone(timedelta(hours=2)))
    data = encode_record(KeyRecord("web", (replace(a_version(), created=moment),)))
    assert parse_document(data, Path("record"))["versions"][0]["created"] == "2025-02-28T23:30:15Z"
    assert read(data, "web").newest.created == moment.replace(microsecond=0)
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= a_version().created <= datetime.now(UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": ""},
        {"kind": "P256"},
        {"kind": None},
        {"usages": {}},
        {"usages": []},
        {"usages": {"sign": b""}},
        {"usages": {"sign": "text"}},
        {"usages": {"Sign": b"x"}},
        {"usages": {1: b"x"}},
        {"usages": {"sign": bytes(1 << 17)}},
        {"public": b""},
        {"public": "text"},
        {"origin": "elsewhere"},
        {"created": datetime(2025, 1, 1)},
        {"created": "2025-01-01T00:00:00Z"},
        {"version": 0},
        {"version": True},
        {"version": 10**9},
        {"certificates": b"der"},
        {"certificates": ("pem",)},
        {"certificates": (b"",)},
        {"attributes": []},
        {"attributes": {"a": b"bytes"}},
        {"attributes": {"a": float("nan")}},
        {"attributes": {1: "a"}},
        {"attributes": {"a": (1, 2)}},
    ],
    ids=str,
)
def test_what_cannot_be_kept(change: dict[str, Any]) -> None:
    with pytest.raises(WrongArgumentError, match=f"KeyVersion: {next(iter(change))}"):
        replace(a_version(), **change)


def test_attributes_are_as_deep_as_can_be_read_again() -> None:
    kept = refused = 0
    value: Any = 1
    for _ in range(70):
        value = [value]
        try:
            record = KeyRecord("web", (replace(a_version(), attributes={"a": value}),))
        except ArgumentError:
            refused += 1
        else:
            kept += 1
            assert read(encode_record(record), "web") == record
    assert kept
    assert refused


def test_what_is_kept_cannot_be_changed_from_outside() -> None:
    usages, attributes = {"sign": b"x"}, {"list": [1]}
    version = KeyVersion(kind="p256", usages=usages, attributes=attributes)
    usages["sign"] = b"y"
    attributes["list"].append(2)
    assert (version.usages["sign"], version.attributes["list"]) == (b"x", [1])
    with pytest.raises(TypeError):
        version.usages["sign"] = b"z"  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        version.kind = "p384"  # type: ignore[misc]


def test_versions() -> None:
    record = a_key("web", 1)
    for mark in (2, 3):
        record = record.with_version(a_version(mark))
    assert [version.version for version in record.versions] == [1, 2, 3]
    assert record.newest is record.version() is record.version(3)
    with pytest.raises(KeyNotFoundError, match="has no version 4; it has 1, 2, 3"):
        record.version(4)
    without = record.without_version(3)
    assert without is not None
    assert without.with_version(a_version(4)).newest.version == 4, "a number never means two keys"
    assert a_key("web").without_version(1) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeyRecord("web", ()),
        lambda: KeyRecord("web", (a_version(), a_version())),
        lambda: KeyRecord("web", (replace(a_version(), version=2), a_version())),
        lambda: KeyRecord("web", (replace(a_version(), version=2),), next_version=2),
        lambda: KeyRecord("web", ("version",)),
        lambda: KeyRecord("web", (a_version(),), next_version=True),
    ],
)
def test_records_that_cannot_be(make: Any) -> None:
    with pytest.raises(WrongArgumentError):
        make()


def test_a_record_that_is_too_long_is_refused_before_it_is_written() -> None:
    record = KeyRecord("web", (replace(a_version(), certificates=(bytes(1 << 20),) * 7),))
    with pytest.raises(ArgumentError, match="web: its record would have"):
        encode_record(record)
