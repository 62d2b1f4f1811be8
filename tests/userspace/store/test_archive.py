# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Backups: an exported store opens where it is unpacked, and so does a copy of its folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from ihsm.errors import StoreError, StoreExistsError
from ihsm.store import DEVICE, Store
from support.stores import SECRETS, a_key, new_store, tree


@pytest.fixture
def store(root: Path) -> Store:
    store = new_store(root, "café", pin="1234")
    store.add_key(a_key("web", 1))
    store.add_key(a_key("🔑", 2))
    store.rename_key("🔑", "site")
    (store.path / DEVICE).mkdir(0o700)
    for name, data in (("lock", b""), ("device.secret", b"secret" * 1000), ("device.json.new", b"half")):
        (store.path / DEVICE / name).write_bytes(data)
        (store.path / DEVICE / name).chmod(0o600)
    return store


def unpack(tar: Path, folder: Path) -> None:
    """As a user does it, with a mask that would open what has no mode of its own."""
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-xf", tar, "-C", folder], check=True, umask=0)


def test_what_is_unpacked_opens(store: Store, tmp_path: Path) -> None:
    tar = tmp_path / "backup.tar"
    store.export(tar)
    assert tar.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    unpack(tar, tmp_path / "elsewhere")
    found = Store.open("café", pin="1234", root=tmp_path / "elsewhere")
    assert (found.secrets, found.keys()) == (SECRETS, store.keys())
    for path in found.path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    kept = {name: data for name, data in tree(store.path).items() if not name.endswith(("lock", ".new"))}
    assert tree(found.path) == kept
    found.add_key(a_key("later"))


def test_locks_and_what_is_not_finished_stay_here(store: Store, tmp_path: Path) -> None:
    for folder in (store.path, store.path / "keys"):
        (folder / ".new").write_text("left by a killed writer")
    (store.path / "device.lock").write_text("4711")
    store.export(tmp_path / "backup.tar")
    with tarfile.open(tmp_path / "backup.tar") as tar:
        names = [os.path.basename(name) for name in tar.getnames()]
        assert all((entry.uid, entry.gid, entry.uname) == (0, 0, "") for entry in tar)
    assert not [name for name in names if name.endswith("lock")]
    assert not [name for name in names if name.endswith(".new")]
    assert {"store.json", "device.secret", "keys"} <= set(names)


def test_nothing_is_replaced(store: Store, tmp_path: Path) -> None:
    tar, link = tmp_path / "backup.tar", tmp_path / "link"
    tar.write_text("kept")
    link.symlink_to(tmp_path / "nowhere")
    for path in (tar, link, tmp_path):
        with pytest.raises(StoreExistsError, match=str(path)):
            store.export(path)
    assert tar.read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_appears_meanwhile_is_not_replaced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar, link = tmp_path / "backup.tar", os.link

    def slow(old: Path, new: Path) -> None:
        tar.write_text("kept")
        link(old, new)

    monkeypatch.setattr(os, "link", slow)
    with pytest.raises(StoreExistsError):
        store.export(tar)
    assert tar.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_system_without_links(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store.export(tmp_path / "backup.tar")
    unpack(tmp_path / "backup.tar", tmp_path / "elsewhere")
    assert Store.open("café", pin="1234", root=tmp_path / "elsewhere").keys() == store.keys()


@pytest.mark.parametrize("place", ["/nowhere/backup.tar", "/dev/null/backup.tar"])
def test_where_nothing_can_be_written(store: Store, place: str) -> None:
    with pytest.raises(StoreError, match=place):
        store.export(Path(place))


def test_a_copy_of_the_folder_is_a_backup(store: Store, tmp_path: Path) -> None:
    """Under any name."""
    shutil.copytree(store.path, tmp_path / "backup" / "copy")
    found = Store.open("copy", pin="1234", root=tmp_path / "backup")
    assert (found.secrets, found.keys()) == (SECRETS, store.keys())
    store.delete()
    found.add_key(a_key("later"))
