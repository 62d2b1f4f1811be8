# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The store's operations: what each changes, what it refuses, and that what it refuses changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ihsm.errors import (
    ArgumentError,
    KeyExistsError,
    KeyNotFoundError,
    StoreBusyError,
    StoreExistsError,
    StoreNotFoundError,
    WrongArgumentError,
)
from ihsm.locks import try_lock
from ihsm.store import DEVICE, KeyRecord, Store, StoreDevice, staging
from ihsm.store.files import LOCK, open_folder, open_lock
from ihsm.store.labels import file_stem
from ihsm.store.records import encode_record
from support.stores import IDENTITY, SECRETS, a_key, a_version, in_child, new_store, tree


@pytest.fixture
def store(root: Path) -> Store:
    store = new_store(root)
    store.add_key(a_key("web", 1))
    store.add_version("web", a_version(2))
    return store


def opened(store: Store) -> Store:
    return Store.open(store.name, root=store.path.parent)


def labels(store: Store) -> list[str]:
    keys = store.keys()
    return [key.label for key in keys]


def test_what_was_made_is_there_when_it_is_opened(root: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    made = new_store(root, "mine", device=StoreDevice.at("vfio-user:/run/hsm.sock"), unwrapping_key=None)
    for store in (made, Store.open("mine", root=root)):
        assert (store.name, store.path) == ("mine", root / "mine")
        assert str(store.device) == "vfio-user:/run/hsm.sock"
        assert (store.secrets, store.identity, store.masked_bk3, store.bmk) == (
            SECRETS,
            IDENTITY,
            b"masked bk3",
            b"bmk",
        )
        assert store.unwrapping_key is None
        assert before <= store.created <= datetime.now(UTC)
        assert (store.keys(), store.key_count()) == ([], 0)


def test_folders_are_0700_and_files_0600_whatever_the_mask(root: Path) -> None:
    def make() -> None:
        os.umask(0o000)
        new_store(root).add_key(a_key("web"))

    in_child(make)
    for path in (root.parent, root, *root.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_store_is_not_replaced(store: Store) -> None:
    before = tree(store.path)
    with pytest.raises(StoreExistsError, match="default"):
        new_store(store.path.parent, pin="1234")
    assert tree(store.path) == before
    (store.path.parent / "taken").write_text("something else")
    (store.path.parent / "link").symlink_to("nowhere")
    for name in ("taken", "link"):
        with pytest.raises(StoreExistsError):
            new_store(store.path.parent, name)


@pytest.mark.parametrize(
    "change",
    [
        {"bmk": b""},
        {"bmk": "text"},
        {"bmk": bytes(1 << 17)},
        {"masked_bk3": None},
        {"unwrapping_key": b""},
        {"identity": bytes(31)},
        {"device": "private"},
        {"secrets": None},
        {"pin": ""},
    ],
    ids=str,
)
def test_what_no_store_is_made_of(root: Path, change: dict[str, Any]) -> None:
    with pytest.raises(WrongArgumentError):
        new_store(root, **change)
    assert Store.names(root) == []


@pytest.mark.parametrize("arguments", [("uri",), ("private", "pci:1"), ("usb",), ("uri", ""), ("uri", "x" * 9000)])
def test_devices_that_cannot_be(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ArgumentError):
        StoreDevice(*arguments)


def test_no_store(root: Path) -> None:
    assert Store.names(root) == []
    with pytest.raises(StoreNotFoundError, match="ihsm init"):
        Store.open("default", root=root)
    assert not root.exists(), "looking makes nothing"


def test_names_are_those_of_stores(root: Path) -> None:
    for name in ("b", "a", "c"):
        new_store(root, name)
    (root / "folder").mkdir()
    (root / "file").touch()
    for unfit in (".hidden", "line\nbreak", os.fsdecode(b"\xff")):
        (root / unfit).mkdir()
        (root / unfit / "store.json").touch()
    with staging(root):
        assert Store.names(root) == ["a", "b", "c"]


def test_the_default_is_of_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(root.parent))
    monkeypatch.delenv("IHSM_STORE", raising=False)
    new_store(root)
    new_store(root, "other")
    assert Store.open().name == "default"
    monkeypatch.setenv("IHSM_STORE", "other")
    assert Store.open().path == root / "other"
    assert Store.names() == ["default", "other"]
    monkeypatch.setenv("IHSM_STORE", "a/b")
    with pytest.raises(ArgumentError, match="IHSM_STORE"):
        Store.open()


# -- updates -----------------------------------------------------------------------------------------------------------


def test_update_and_refresh(store: Store) -> None:
    other = opened(store)
    store.update(bmk=b"new", unwrapping_key=b"key", identity=bytes(32), device=StoreDevice.at("pci:1"), masked_bk3=b"m")
    for each in (store, opened(store)):
        assert (each.bmk, each.unwrapping_key, each.identity, each.masked_bk3) == (b"new", b"key", bytes(32), b"m")
        assert each.device == StoreDevice.at("pci:1")
    assert other.bmk == b"bmk"
    other.refresh()
    assert other.bmk == b"new"


def test_an_update_keeps_what_others_updated(store: Store) -> None:
    other = opened(store)
    store.update(bmk=b"new")
    other.update(unwrapping_key=b"key")
    assert (other.bmk, opened(store).bmk, opened(store).unwrapping_key) == (b"new", b"new", b"key")


def test_an_update_to_the_same_writes_nothing(store: Store) -> None:
    before = (store.path / "store.json").stat().st_ino
    store.update(bmk=b"bmk")
    store.update()
    assert (store.path / "store.json").stat().st_ino == before


def test_an_update_that_cannot_be_changes_nothing(store: Store) -> None:
    before = tree(store.path)
    for change in ({"bmk": b""}, {"identity": b"x"}, {"bmk": b"new", "device": "pci:1"}):
        with pytest.raises(WrongArgumentError):
            store.update(**change)  # type: ignore[arg-type]
    assert tree(store.path) == before
    assert store.bmk == b"bmk"


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_are_sorted_and_found(store: Store) -> None:
    for mark, label in enumerate(("b", "ä", "a", "Z")):
        store.add_key(a_key(label, mark))
    assert labels(opened(store)) == ["Z", "a", "b", "web", "ä"]
    assert opened(store).key("ä").newest.attributes == {"mark": 1}
    assert store.key_count() == 5


def test_versions_are_numbered_for_ever(store: Store) -> None:
    assert [version.attributes["mark"] for version in store.key("web").versions] == [1, 2]
    store.delete_key("web", 2)
    assert store.add_version("web", a_version(3)) == 3
    assert [version.version for version in opened(store).key("web").versions] == [1, 3]
    store.delete_key("web", 1)
    store.delete_key("web", 3)
    assert labels(store) == []


def test_certificates(store: Store) -> None:
    store.set_certificates("web", 1, [b"new leaf", b"new root"])
    store.set_certificates("web", None, [])
    first, second = opened(store).key("web").versions
    assert (first.certificates, second.certificates) == ((b"new leaf", b"new root"), ())
    assert (first.usages, first.attributes) == (a_version(1).usages, {"mark": 1})


def test_renaming_a_key(store: Store) -> None:
    before = store.key("web")
    store.rename_key("web", "site")
    assert labels(opened(store)) == ["site"]
    assert store.key("site").versions == before.versions
    store.add_key(a_key("web", 9))
    store.rename_key("site", "third")
    store.rename_key("web", "site")
    assert labels(store) == ["site", "third"]
    assert store.key("site").newest.attributes == {"mark": 9}
    assert store.add_version("third", a_version(3)) == 3


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda store: store.key("other"), KeyNotFoundError),
        (lambda store: store.delete_key("other"), KeyNotFoundError),
        (lambda store: store.delete_key("web", 3), KeyNotFoundError),
        (lambda store: store.add_version("other", a_version()), KeyNotFoundError),
        (lambda store: store.set_certificates("other", 1, []), KeyNotFoundError),
        (lambda store: store.set_certificates("web", 9, []), KeyNotFoundError),
        (lambda store: store.set_certificates("web", 1, ["text"]), WrongArgumentError),
        (lambda store: store.rename_key("other", "new"), KeyNotFoundError),
        (lambda store: store.rename_key("web", "web"), KeyExistsError),
        (lambda store: store.rename_key("web", "a@1"), ArgumentError),
        (lambda store: store.add_key(a_key("web")), KeyExistsError),
        (lambda store: store.add_key(KeyRecord("web", (a_version(7),))), KeyExistsError),
        (lambda store: store.rename("default"), StoreExistsError),
    ],
)
def test_what_is_refused_changes_nothing(
    store: Store, change: Callable[[Store], object], error: type[Exception]
) -> None:
    before = tree(store.path)
    with pytest.raises(error):
        change(store)
    assert tree(store.path) == before


def test_a_missing_key_is_named(store: Store) -> None:
    with pytest.raises(KeyNotFoundError, match="store 'default' has no key 'other'") as caught:
        store.key("other")
    assert isinstance(caught.value, KeyError)


def test_other_files_are_left_alone(store: Store) -> None:
    """An editor's backup, or what a later version may put there."""
    (store.path / "keys" / "README").write_text("mine")
    (store.path / "notes").write_text("mine")
    assert labels(store) == ["web"]
    store.add_key(a_key("new"))
    assert (store.path / "keys" / "README").read_text() == (store.path / "notes").read_text() == "mine"


def test_5000_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening and looking one up reads two files, however many there are."""
    for number in range(5000):
        path = store.path / "keys" / f"{file_stem(f'key {number}')}.json"
        path.write_bytes(encode_record(a_key(f"key {number}", number)))
        path.chmod(0o600)
    reads = []
    original = os.open

    def seen(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if not flags & os.O_DIRECTORY:
            reads.append(path)
        return original(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", seen)
    monkeypatch.setattr(os, "listdir", lambda *_: pytest.fail("the folder was listed"))
    assert opened(store).key("key 4321").newest.attributes == {"mark": 4321}
    assert len(reads) == 2
    reads.clear()
    store.add_version("key 4321", a_version(2))
    store.delete_key("key 17")
    store.rename_key("key 18", "key 17")
    assert len(reads) < 15
    monkeypatch.undo()
    assert store.key_count() == 5000
    assert len(store.keys()) == 5000
    assert store.key("key 17").newest.attributes == {"mark": 18}


# -- the whole store ---------------------------------------------------------------------------------------------------


def test_renaming_a_store(store: Store) -> None:
    root = store.path.parent
    other = opened(store)
    store.rename("new name")
    assert (store.name, store.path, Store.names(root)) == ("new name", root / "new name", ["new name"])
    assert labels(store) == labels(opened(store)) == ["web"]
    store.add_key(a_key("later"))
    for change in (lambda: other.key("web"), lambda: other.add_key(a_key("x")), other.refresh, other.delete):
        with pytest.raises(StoreNotFoundError):
            change()


def test_a_sealed_store_is_renamed_and_copied_without_its_pin(root: Path) -> None:
    new_store(root, pin="1234")
    Store.open("default", root=root, unlock=False).rename("other")
    assert Store.open("other", pin="1234", root=root).secrets == SECRETS


def test_deleting_a_store(store: Store) -> None:
    root = store.path.parent
    other = opened(store)
    (store.path / DEVICE).mkdir(0o700)
    (store.path / DEVICE / "device.secret").touch(0o600)
    store.delete()
    assert Store.names(root) == []
    assert list(tree(root)) == [".lock"]
    for change in (lambda: other.key("web"), lambda: other.add_key(a_key("x")), other.delete):
        with pytest.raises(StoreNotFoundError):
            change()


def test_a_store_that_took_another_s_name(store: Store) -> None:
    """What was meant for the one must not be done to the other."""
    stale = opened(store)
    store.delete()
    current = new_store(store.path.parent)
    for change in (lambda: stale.add_key(a_key("x")), lambda: stale.update(bmk=b"x"), stale.delete, stale.refresh):
        with pytest.raises(StoreNotFoundError, match="another store has this name"):
            change()
    assert current.keys() == []


@pytest.mark.parametrize(
    "change", [lambda s: s.rename("new"), lambda s: s.delete(), lambda s: s.export(s.path / "tar")]
)
def test_a_private_device_that_runs_keeps_its_folder(store: Store, change: Callable[[Store], object]) -> None:
    (store.path / DEVICE).mkdir(0o700)
    before = tree(store.path / DEVICE)
    with open_folder(store.path / DEVICE) as folder:
        descriptor = open_lock(folder)
        assert try_lock(descriptor)
        with pytest.raises(StoreBusyError, match="private device runs"):
            change(store)
        os.close(descriptor)
    assert tree(store.path / DEVICE) == before | {LOCK: b""}
    assert labels(opened(store)) == ["web"]
    change(store)


def test_the_state_of_the_device_it_was_made_with(root: Path) -> None:
    with staging(root) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "state").mkdir(0o700)
        (folder / "state" / "device.secret").write_bytes(b"secret")
        store = new_store(root, device_state=folder / "state")
    assert (store.path / DEVICE / "device.secret").read_bytes() == b"secret"
    assert sorted(tree(root)) == [".lock", "default", *(f"default/{name}" for name in sorted(tree(store.path)))]


def test_a_folder_that_is_being_staged_is_not_swept(root: Path) -> None:
    with staging(root) as folder:
        (folder / "file").touch()
        new_store(root)
        in_child(lambda: new_store(root, "other"))
        assert (folder / "file").exists()
    assert not folder.exists()


def test_what_only_looks_like_a_left_over_is_left(root: Path, tmp_path: Path) -> None:
    root.mkdir(parents=True, mode=0o700)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (root / ".new-file").touch()
    (root / ".gone-link").symlink_to(tmp_path / "mine")
    new_store(root).rename("other")
    assert (root / ".new-file").exists()
    assert (tmp_path / "mine" / "file").exists()


def test_a_child_of_fork_goes_on(store: Store) -> None:
    in_child(lambda: store.add_key(a_key("of the child")))
    store.add_key(a_key("of the parent"))
    assert labels(store) == ["of the child", "of the parent", "web"]
