# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the file system refuses, and what others may have put there: one typed error each, and nothing half done."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ihsm.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
    StorePermissionError,
)
from ihsm.locks import try_lock
from ihsm.store import Store, StoreDevice
from ihsm.store.files import TEMPORARY, open_folder, open_lock
from ihsm.store.labels import file_stem
from support.stores import NOBODY, a_key, a_version, in_child, new_store, tree

KEY_FILE = f"keys/{file_stem('web')}.json"
CHANGES: list[Callable[[Store], object]] = [
    lambda store: store.update(bmk=bytes(2000)),
    lambda store: store.change_pin(None, "1234"),
    lambda store: store.add_key(a_key("new")),
    lambda store: store.add_version("web", a_version(2)),
    lambda store: store.set_certificates("web", None, [bytes(2000)]),
    lambda store: store.rename_key("web", "site"),
    lambda store: new_store(store.path.parent, "other"),
    lambda store: store.export(store.path.parent / "tar"),
]
NEW_STORE = CHANGES[6]
REMOVALS: list[Callable[[Store], object]] = [
    lambda store: store.delete_key("web"),
    lambda store: store.rename("other"),
    lambda store: store.delete(),
]


@pytest.fixture
def store(root: Path) -> Store:
    store = new_store(root)
    store.add_key(a_key("web", 1))
    return store


def opened(store: Store) -> Store:
    again = Store.open(store.name, root=store.path.parent)
    assert again.key("web").newest.attributes == {"mark": 1}
    return again


def refused(work: Callable[[], object]) -> StoreError:
    """The error that something is refused with."""
    with pytest.raises(StoreError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("change", CHANGES)
def test_no_room(store: Store, change: Callable[[Store], object]) -> None:
    before = tree(store.path.parent)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        change(store)

    error = in_child(work)
    assert isinstance(error, StoreError), error
    assert "make room" in str(error)
    after = tree(store.path.parent)
    assert {name: data for name, data in after.items() if name not in ("default/lock", ".lock")} == {
        name: data for name, data in before.items() if name not in ("default/lock", ".lock")
    }
    change(opened(store))


@pytest.mark.parametrize("function", ["write", "fsync", "rename", "fchmod"])
@pytest.mark.parametrize("change", CHANGES[:6])
def test_a_disk_that_fails(
    store: Store, change: Callable[[Store], object], function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = tree(store.path)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        error = refused(lambda: change(store))
    assert "Input/output error" in str(error)
    # A key whose file was prepared for another label has its old one.
    if change is not CHANGES[5] or function != "rename":
        assert tree(store.path) == before | {"lock": b""}
    change(opened(store))


NOT_ON_DISK = "No space left on device; what was changed in it is there, but may not outlast a failure of power"


def no_fsync_of_folders(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fsync(descriptor)


def test_a_disk_that_fails_behind_the_making_of_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_fsync_of_folders)
        error = refused(lambda: new_store(tmp_path / "of" / "stores"))
    assert NOT_ON_DISK in str(error)
    new_store(tmp_path / "of" / "stores")


@pytest.mark.parametrize("change", CHANGES)
def test_a_disk_that_fails_behind_a_change(
    store: Store, change: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the folder cannot be put on the disk, the change has been made, and the error does not deny it."""
    before = tree(store.path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_fsync_of_folders)
        error = refused(lambda: change(store))
    assert NOT_ON_DISK in str(error)
    after = tree(store.path.parent)
    if change is not NEW_STORE:  # made where nobody sees it, and taken away
        assert after != before
    assert not [name for name in after if TEMPORARY in name]
    records = Store.open(store.name, root=store.path.parent, unlock=False).keys()
    assert all("mark" in record.newest.attributes for record in records)


@pytest.fixture
def of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a store that belongs to a user who is not root, whom permissions bind."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    folder = Path(os.path.realpath("/tmp")) / f"ihsm-store-{os.getpid()}"
    folder.mkdir(0o700)
    os.chown(folder, NOBODY, NOBODY)
    in_child(lambda: new_store(folder / "ihsm").add_key(a_key("web", 1)), user=NOBODY)
    try:
        yield folder / "ihsm"
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("change", CHANGES + REMOVALS)
def test_folders_that_cannot_be_written_to(of_nobody: Path, change: Callable[[Store], object]) -> None:
    folders = [of_nobody, of_nobody / "default", of_nobody / "default" / "keys"]
    before = tree(of_nobody)
    for folder in folders:
        folder.chmod(0o500)
    error = in_child(lambda: change(Store.open("default", root=of_nobody)), user=NOBODY)
    assert isinstance(error, StorePermissionError), error
    assert os.fspath(of_nobody) in str(error)
    assert tree(of_nobody) == before
    label = in_child(lambda: Store.open("default", root=of_nobody).key("web").label, user=NOBODY)
    assert label == "web", "what can be read is read"
    for folder in folders:
        folder.chmod(0o700)
    assert not isinstance(in_child(lambda: change(Store.open("default", root=of_nobody)), user=NOBODY), Exception)


@pytest.mark.parametrize("name", [".", "store.json", "keys", KEY_FILE])
def test_what_cannot_be_read(of_nobody: Path, name: str) -> None:
    path = of_nobody / "default" / name
    path.chmod(0)
    error = in_child(lambda: Store.open("default", root=of_nobody).key("web"), user=NOBODY)
    assert isinstance(error, StorePermissionError), error
    assert os.fspath(path) in str(error)


def test_a_root_that_cannot_be_listed(of_nobody: Path) -> None:
    of_nobody.chmod(0)
    error = in_child(lambda: Store.names(of_nobody), user=NOBODY)
    assert isinstance(error, StorePermissionError)


def test_a_place_where_no_folder_can_be_made(of_nobody: Path) -> None:
    of_nobody.parent.chmod(0o500)
    error = in_child(lambda: new_store(of_nobody.parent / "a" / "b"), user=NOBODY)
    assert isinstance(error, StorePermissionError)


@pytest.mark.parametrize("name", [".", "store.json", "keys", KEY_FILE])
def test_another_s_files(of_nobody: Path, name: str) -> None:
    """Root is another user, too: what root writes there its owner could not read any more."""
    assert f"belongs to user {NOBODY}" in str(refused(lambda: Store.open("default", root=of_nobody)))
    for path in (of_nobody, *of_nobody.rglob("*")):
        os.chown(path, 0, 0)
    path = of_nobody / "default" / name
    os.chown(path, NOBODY, NOBODY)
    error = refused(lambda: Store.open("default", root=of_nobody).key("web"))
    assert isinstance(error, StorePermissionError)
    assert os.fspath(path) in str(error)


@pytest.mark.parametrize("extra", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
@pytest.mark.parametrize("name", [".", "store.json", "keys", KEY_FILE, "lock"])
def test_wider_permissions(store: Store, name: str, extra: int) -> None:
    path = store.path / name
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode | extra)
    before = tree(store.path)
    if name != "lock":
        error = refused(lambda: opened(store))
        assert isinstance(error, StorePermissionError)
        assert f"chmod {mode:o} '{path}'" in str(error)
    for change in (CHANGES[3], REMOVALS[0]):
        assert isinstance(refused(lambda change=change: change(store)), StorePermissionError)  # type: ignore[misc]
    assert tree(store.path) == before
    path.chmod(mode)
    opened(store)


def test_a_root_that_others_can_write_to(store: Store) -> None:
    root = store.path.parent
    root.chmod(0o770)
    for work in (lambda: opened(store), lambda: new_store(root, "other"), store.delete):
        assert "chmod go-w" in str(refused(work))
    root.chmod(0o755)
    opened(store)
    root.chmod(0o1777)
    opened(store)


@pytest.mark.parametrize("name", [".", "store.json", "keys", KEY_FILE, "lock"])
def test_symbolic_links(store: Store, name: str, tmp_path: Path) -> None:
    """Also where they lead to what would be sound."""
    path, aside = store.path / name, tmp_path / "aside"
    if name == "lock":
        path.touch()
    path.rename(aside)
    path.symlink_to(aside)
    before = tree(aside) if aside.is_dir() else aside.read_bytes()
    if name != "lock":
        error = refused(lambda: opened(store))
        assert isinstance(error, StorePermissionError)
        assert "symbolic link" in str(error)
    error = refused(lambda: store.add_version("web", a_version(2)))
    assert isinstance(error, StorePermissionError)
    assert (tree(aside) if aside.is_dir() else aside.read_bytes()) == before


def test_a_link_under_the_temporary_name_is_not_written_through(store: Store, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    for folder in (store.path, store.path / "keys"):
        (folder / ".new").symlink_to(victim)
    store.add_key(a_key("new"))
    store.update(bmk=b"new")
    assert victim.read_text() == "kept"
    assert ".new" not in os.listdir(store.path) + os.listdir(store.path / "keys")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mkdir(path, 0o600)], ids=["pipe", "folder"])
@pytest.mark.parametrize("name", ["store.json", KEY_FILE])
def test_what_is_no_file(store: Store, name: str, make: Callable[[Path], None]) -> None:
    path = store.path / name
    path.unlink()
    make(path)
    path.chmod(0o600)
    error = refused(lambda: opened(store))
    assert isinstance(error, StoreDamagedError)
    assert f"{path}: no regular file" in str(error)


@pytest.mark.parametrize("name", [".", "keys"])
def test_a_folder_that_is_a_file(store: Store, name: str) -> None:
    path = store.path / name
    shutil.rmtree(path)
    path.touch(0o600)
    error = refused(lambda: opened(store))
    assert isinstance(error, StoreDamagedError)
    assert f"{path}: no folder" in str(error)


def test_a_root_that_is_a_file(root: Path) -> None:
    root.parent.mkdir()
    root.touch()
    for work in (
        lambda: new_store(root),
        lambda: Store.names(root),
        lambda: Store.open("default", root=root),
        lambda: new_store(root / "below"),
    ):
        assert "Not a directory" in str(refused(work)) or "File exists" in str(refused(work))


def test_an_empty_folder_is_no_store(root: Path) -> None:
    (root / "default").mkdir(parents=True, mode=0o700)
    assert Store.names(root) == []
    assert isinstance(refused(lambda: Store.open("default", root=root)), StoreDamagedError)
    assert isinstance(refused(lambda: new_store(root)), StoreExistsError)


def test_a_lock_that_is_held_for_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.store.files.LOCK_WAIT_S", 0.01)
    with open_folder(store.path) as folder:
        descriptor = open_lock(folder)
        assert try_lock(descriptor)
        error = refused(lambda: store.update(bmk=b"new"))
        assert isinstance(error, StoreBusyError)
        assert opened(store).bmk == b"bmk", "reads need no lock"
        os.close(descriptor)
    store.update(bmk=b"new")


def before_the_lock_is_had(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Have something done by somebody else when a lock file was opened and is not locked yet."""
    rest = [work]

    def late(descriptor: int) -> bool:
        if rest:
            rest.pop()()
        return try_lock(descriptor)

    monkeypatch.setattr("ihsm.store.files.try_lock", late)


def test_a_lock_that_is_removed_while_it_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that nobody finds any more keeps nobody out."""
    before_the_lock_is_had(monkeypatch, (store.path / "lock").unlink)
    rename, free = os.rename, []

    def looked(*arguments: Any, **options: Any) -> None:
        with open_folder(store.path) as folder:
            descriptor = open_lock(folder)
            free.append(try_lock(descriptor))
            os.close(descriptor)
        rename(*arguments, **options)

    monkeypatch.setattr(os, "rename", looked)
    store.update(bmk=b"new")
    assert free == [False]


def test_a_store_that_is_renamed_while_its_lock_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    other = store.path.with_name("other")
    before = tree(store.path)
    before_the_lock_is_had(monkeypatch, lambda: store.path.rename(other))
    assert isinstance(refused(lambda: store.update(bmk=b"new")), StoreNotFoundError)
    assert tree(other) == before


def test_the_folder_is_gone(store: Store) -> None:
    shutil.rmtree(store.path)
    for change in (*CHANGES[:6], *REMOVALS, Store.refresh, Store.keys, lambda each: each.key("web")):
        assert isinstance(refused(lambda change=change: change(store)), StoreNotFoundError)  # type: ignore[misc]
    store = new_store(store.path.parent, device=StoreDevice.at("pci:1"))
    assert store.keys() == []
