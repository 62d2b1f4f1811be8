# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files that were damaged or changed: a typed error that names file and field, or what they said before."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.errors import StoreDamagedError, StoreError, WrongPinError
from ihsm.store import KeyRecord, Store
from ihsm.store.documents import encode_document, parse_document
from ihsm.store.labels import file_stem
from support.stores import SECRETS, a_key, a_version, new_store, tree

PIN = "1234"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(params=[None, PIN], ids=["plain", "sealed"])
def store(request: pytest.FixtureRequest, root: Path) -> Store:
    store = new_store(root, pin=request.param)
    store.add_key(KeyRecord("web", (a_version(1),)))
    store.add_version("web", a_version(2))
    return store


def everything(store: Store) -> tuple[Any, ...]:
    """What a store says that is opened anew."""
    pin = PIN if store.pin_protected else None
    again = Store.open(store.name, pin=pin, root=store.path.parent)
    blobs = again.bmk, again.masked_bk3, again.unwrapping_key
    return again.secrets, blobs, again.device, again.identity, again.created, again.key("web"), again.keys()


def files(store: Store) -> list[Path]:
    return [store.path / "store.json", store.path / "keys" / f"{file_stem('web')}.json"]


def outcome(store: Store) -> tuple[StoreError | None, Any]:
    """The error that opening and reading a store ends with, or everything that it says."""
    try:
        return None, everything(store)
    except StoreError as error:
        return error, None


def refused_or_same(store: Store, expected: tuple[Any, ...]) -> bool:
    """Whether it is refused, as it must be where it is not what was written."""
    error, found = outcome(store)
    if error is None:
        assert found == expected
        return False
    assert isinstance(error, StoreDamagedError) or "newer version" in str(error)
    assert "\n" not in str(error)
    return True


@pytest.mark.parametrize("which", [0, 1], ids=["store", "key"])
def test_a_flipped_bit_anywhere(store: Store, which: int) -> None:
    path, dice = files(store)[which], random.Random(7)
    expected, data = everything(store), path.read_bytes()
    refused = 0
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        refused += refused_or_same(store, expected)
    # What is the same are changed blanks between fields.
    assert refused > 0.9 * len(data.replace(b" ", b"").replace(b"\n", b""))


@pytest.mark.parametrize("which", [0, 1], ids=["store", "key"])
def test_a_cut_anywhere(store: Store, which: int) -> None:
    path = files(store)[which]
    expected, data = everything(store), path.read_bytes()
    for length in range(len(data) - 2):
        path.write_bytes(data[:length])
        assert refused_or_same(store, expected)


@given(data=st.binary(max_size=200))
def test_garbage(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = new_store(tmp_path_factory.mktemp("garbage"))
    store.add_key(a_key("web"))
    for path in files(store):
        sound = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(StoreError):
            everything(store)
        path.write_bytes(sound)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    found = [at] if at else []
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside:
        found += places(part, (*at, name))
    return found


def put(content: Any, place: tuple[Any, ...], value: Any) -> None:
    for name in place[:-1]:
        content = content[name]
    content[place[-1]] = value


@given(data=st.data())
@pytest.mark.parametrize("which", [0, 1], ids=["store", "key"])
def test_another_value_in_any_field(data: st.DataObject, which: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As somebody writes it who makes the digest fit: refused with the field's name, or a value of the same kind."""
    store = new_store(tmp_path_factory.mktemp("values"), pin=data.draw(st.sampled_from([None, PIN])))
    store.add_key(a_key("web"))
    path = files(store)[which]
    content = parse_document(path.read_bytes(), path)
    place = data.draw(st.sampled_from(places(content)))
    value = data.draw(JSON)
    put(content, place, value)
    try:
        path.write_bytes(encode_document(content))
    except ValueError:
        return  # no JSON value
    error, _ = outcome(store)
    assert error is None or isinstance(error, StoreDamagedError | WrongPinError)
    if which == 0 and error is not None and str(path) in str(error):
        assert str(place[0]) in str(error)


@pytest.mark.parametrize("which", [0, 1], ids=["store", "key"])
def test_fields_that_are_missing_or_too_many(store: Store, which: int) -> None:
    path = files(store)[which]
    sound = path.read_bytes()
    for place in places(parse_document(sound, path)):
        if isinstance(place[-1], int) or "attributes" in place[:-1]:
            continue
        content = parse_document(sound, path)
        inside = content
        for name in place[:-1]:
            inside = inside[name]
        value = inside.pop(place[-1])
        for spoilt in (content, {**content, "unknown": value}):
            path.write_bytes(encode_document(spoilt))
            with pytest.raises(StoreDamagedError) as caught:
                everything(store)
            assert str(path) in str(caught.value)


@pytest.mark.parametrize("which", [0, 1], ids=["store", "key"])
@pytest.mark.parametrize(
    ("form", "error", "text"),
    [
        (2, StoreError, "newer version of ihsm"),
        (10**30, StoreError, "newer version of ihsm"),
        (0, StoreDamagedError, "format"),
        (-1, StoreDamagedError, "format"),
        (True, StoreDamagedError, "format"),
        ("1", StoreDamagedError, "format"),
        (None, StoreDamagedError, "format"),
    ],
)
def test_other_formats(store: Store, which: int, form: Any, error: type[StoreError], text: str) -> None:
    path = files(store)[which]
    plain = json.loads(path.read_bytes()) | {"format": form, "anything": ["else"]}
    path.write_text(json.dumps(plain))
    before = tree(store.path)
    with pytest.raises(error, match=text) as caught:
        everything(store)
    assert str(path) in str(caught.value)
    changes: list[Callable[[], object]] = [lambda: store.add_version("web", a_version(3))]
    changes += [lambda: store.update(bmk=b"x"), lambda: store.change_pin(None, None)] if which == 0 else []
    for change in changes:
        with pytest.raises(StoreError):
            change()
    assert tree(store.path) == before


def test_a_key_s_file_under_another_s_name(store: Store) -> None:
    store.add_key(a_key("other"))
    path = files(store)[1]
    path.write_bytes((store.path / "keys" / f"{file_stem('other')}.json").read_bytes())
    with pytest.raises(StoreDamagedError, match="label: does not belong"):
        store.key("web")
    assert store.key("other").label == "other"


def test_one_damaged_key_hides_no_other(store: Store) -> None:
    store.add_key(a_key("other"))
    files(store)[1].write_bytes(b"{}")
    assert store.key("other").label == "other"
    store.add_version("other", a_version(2))
    with pytest.raises(StoreDamagedError):
        store.keys()


@pytest.mark.parametrize("name", ["store.json", "keys"])
def test_what_is_missing(store: Store, name: str) -> None:
    path = store.path / name
    path.rename(store.path.parent / "aside")
    with pytest.raises(StoreDamagedError, match=f"{name}: damaged: missing"):
        everything(store)
    with pytest.raises(StoreDamagedError):
        store.add_key(a_key("new"))


def test_a_file_without_end(store: Store) -> None:
    for path in files(store):
        sound = path.read_bytes()
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(StoreDamagedError, match="longer than"):
            everything(store)
        path.write_bytes(sound)


def test_the_same_document_set_out_otherwise_is_the_same(store: Store) -> None:
    expected = everything(store)
    for path in files(store):
        path.write_text(json.dumps(json.loads(path.read_bytes()), indent=7, ensure_ascii=False))
    assert everything(store) == expected


def test_what_is_not_canonical_base64_is_refused(root: Path) -> None:
    """Two spellings of one value would be two files that mean the same."""
    store = new_store(root, bmk=b"x")
    path = store.path / "store.json"
    for spelling in ("eB==", "eA", "eA==\n", "e A==", "eA===", base64.urlsafe_b64encode(b"\xff\xfe").decode()):
        content = parse_document(path.read_bytes(), path) | {"bmk": spelling}
        (store.path / "store.json").write_bytes(encode_document(content))
        with pytest.raises(StoreDamagedError, match="bmk: "):
            Store.open("default", root=root)
    assert store.secrets == SECRETS


def test_a_damaged_key_can_be_deleted_as_a_whole(store: Store) -> None:
    store.add_key(a_key("site"))
    path = store.path / "keys" / f"{file_stem('web')}.json"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(StoreDamagedError):
        store.delete_key("web", 1)
    assert path.exists()
    store.delete_key("web")
    assert not path.exists()
    (left,) = store.keys()
    assert left.label == "site"
