# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What keys and stores may be called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.errors import ArgumentError, ArgumentTypeError, StoreError, WrongArgumentError
from ihsm.store import LONGEST_LABEL, Store, check_label, check_name, split_label
from ihsm.store.labels import file_stem
from support.stores import a_key, new_store, tree

GOOD = [
    "web",
    "a/b",
    "../../etc/passwd",
    ".hidden",
    "café",
    "cafe\u0301",
    "密钥",
    "🔑",
    "e@mail",
    "@",
    "web@",
    "@1",
    " ",
    "x" * 128,
    "é" * 64,
]
BAD = ["", "x" * 129, "é" * 65, "a\nb", "a\0b", "\x7f", "\x85", "a\u2028b", "\ud800", "web@1", "web@007", "a@1@2"]


@pytest.mark.parametrize("label", GOOD)
def test_a_key_of_any_label(root: Path, label: str) -> None:
    store = new_store(root)
    store.add_key(a_key(label))
    assert store.key(label).label == label
    keys = store.keys()
    assert [key.label for key in keys] == [label]
    inside = {Path(name).parts[0] for name in tree(store.path)}
    assert inside == {"keys", "lock", "store.json"}
    assert os.listdir(store.path / "keys") == [f"{file_stem(label)}.json"]


@pytest.mark.parametrize("label", BAD)
def test_what_is_no_label(root: Path, label: str) -> None:
    store = new_store(root)
    with pytest.raises(ArgumentError):
        check_label("test", "label", label)
    for call in (store.key, store.delete_key, lambda text: store.rename_key("a", text), lambda text: a_key(text)):
        with pytest.raises(ArgumentError):
            call(label)


def test_labels_that_look_alike_are_different(root: Path) -> None:
    store = new_store(root)
    for mark, label in enumerate(("café", "cafe\u0301", "Café")):
        store.add_key(a_key(label, mark))
    assert store.key("cafe\u0301").newest.attributes["mark"] == 1
    assert store.key_count() == 3


@pytest.mark.parametrize("name", [*(label for label in BAD if "@" not in label), ".", "..", ".new-1", "a/b", "/abs"])
def test_what_is_no_store_s_name(root: Path, name: str) -> None:
    for call in (
        lambda: check_name("test", "name", name),
        lambda: new_store(root, name),
        lambda: Store.open(name, root=root),
        lambda: new_store(root).rename(name),
    ):
        with pytest.raises(ArgumentError):
            call()


@pytest.mark.parametrize("name", ["default", "密钥", "a b", "x" * 128, "web@1", "store.json"])
def test_a_store_of_any_name(root: Path, name: str) -> None:
    new_store(root, name)
    assert Store.names(root) == [name]
    assert Store.open(name, root=root).name == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web", ("web", None)),
        ("web@1", ("web", 1)),
        ("a@b@12", ("a@b", 12)),
        ("web@", ("web@", None)),
        ("@1", ("@1", None)),
    ],
)
def test_versions(text: str, expected: tuple[str, int | None]) -> None:
    assert split_label(text) == expected


@pytest.mark.parametrize("text", ["web@0", "web@01", "web@1234567890", "a@1@2", "", "a\n@1"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ArgumentError):
        split_label(text)


@given(st.text())
def test_every_text_is_a_label_or_refused(text: str) -> None:
    try:
        label, version = split_label(text)
    except ArgumentError:
        return
    assert check_label("test", "label", label) == label
    assert 1 <= len(label.encode()) <= LONGEST_LABEL
    assert text == (label if version is None else f"{label}@{version}")


def test_what_is_no_text() -> None:
    for wrong in (b"web", None, 1, ["web"]):
        for call in (
            split_label,
            lambda text: check_label("test", "label", text),
            lambda text: check_name("t", "n", text),
        ):
            with pytest.raises(ArgumentTypeError) as caught:
                call(wrong)  # type: ignore[arg-type]
            assert isinstance(caught.value, WrongArgumentError)
            assert not isinstance(caught.value, StoreError)
