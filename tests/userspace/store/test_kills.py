# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process that is killed at any system call that writes leaves a store old or new, and nothing that is in the way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm.errors import PinRequiredError
from ihsm.store import KeyRecord, Store, StoreDevice
from ihsm.store.sealing import Scrypt
from support.stores import SECRETS, a_key, a_version, new_store

WRITING: Final = ("write", "fsync", "fchmod", "rename", "link", "unlink", "mkdir", "rmdir")
"""Functions of os that change files; `open` is one where it makes a file."""
KILLED: Final = 77
PIN: Final = "1234"
OTHER_PIN: Final = "5678"

State = dict[str, Any]
Operation = Callable[[Path], object]


def opened(root: Path, name: str = "sealed") -> Store:
    return Store.open(name, pin=PIN if name == "sealed" else None, root=root)


OPERATIONS: Final[dict[str, Operation]] = {
    "create": lambda root: new_store(root, "new"),
    "create with a PIN": lambda root: new_store(root, "new", pin=PIN),
    "create with the device's state": lambda root: new_store(root, "new", device_state=root / "state"),
    "update": lambda root: opened(root, "plain").update(bmk=b"other", unwrapping_key=b"another"),
    "update what is sealed": lambda root: opened(root).update(device=StoreDevice.at("pci:1"), identity=bytes(32)),
    "change the PIN": lambda root: opened(root).change_pin(PIN, OTHER_PIN),
    "set a PIN": lambda root: opened(root, "plain").change_pin(None, PIN),
    "remove the PIN": lambda root: opened(root).change_pin(PIN, None),
    "add a key": lambda root: opened(root).add_key(a_key("new")),
    "add a version": lambda root: opened(root).add_version("web", a_version(7)),
    "set certificates": lambda root: opened(root).set_certificates("web", 1, [b"one"]),
    "delete a key": lambda root: opened(root).delete_key("web"),
    "delete a version": lambda root: opened(root).delete_key("web", 2),
    "rename a key": lambda root: opened(root).rename_key("web", "site"),
    "rename": lambda root: opened(root).rename("renamed"),
    "delete": lambda root: opened(root).delete(),
    "export": lambda root: opened(root).export(root / "store.tar"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is such a place: a kill is the same there, and nothing waits for a disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores with keys, and the state of a device that shall become another's."""
    root = tmp_path_factory.mktemp("template") / "ihsm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ihsm.store.unlocking.Scrypt", lambda: Scrypt(n=16))
        for name, pin in (("plain", None), ("sealed", PIN)):
            store = new_store(root, name, pin=pin)
            store.add_key(KeyRecord("web", (a_version(1),)))
            store.add_version("web", a_version(2))
            store.add_key(a_key("other", 3))
            (store.path / "device").mkdir(0o700)
            (store.path / "device" / "lock").touch(0o600)
            (store.path / "device" / "device.json").touch(0o600)
    (root / "state").mkdir(0o700)
    (root / "state" / "device.json").touch(0o600)
    return root


def state(root: Path) -> State:
    """Everything that the stores say, and what was exported; fails where something cannot be read."""
    found: State = {"exported": (root / "store.tar").exists()}
    for name in Store.names(root):
        store, pin = _open_any(root, name)
        keys = store.keys()
        assert store.secrets == SECRETS
        found[name] = (
            pin,
            store.bmk,
            store.unwrapping_key,
            store.device,
            store.identity,
            [(key.label, key.next_version, [_content(version) for version in key.versions]) for key in keys],
            sorted(path.name for path in (store.path / "device").glob("*.json")),
        )
    return found


def _content(version: Any) -> tuple[Any, ...]:
    return version.version, dict(version.usages), version.certificates, dict(version.attributes)


def _open_any(root: Path, name: str) -> tuple[Store, str | None]:
    try:
        return Store.open(name, root=root), None
    except PinRequiredError:
        pass
    for pin in (PIN, OTHER_PIN):
        try:
            return Store.open(name, pin=pin, root=root), pin
        except ValueError:
            continue
    raise AssertionError(f"{name}: neither PIN opens it")


def count_calls(before: Callable[[int, str, tuple[Any, ...]], None]) -> None:
    """Have every call that writes counted from 1, and `before` called with its number, name and arguments."""
    number = 0

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal number
            if name != "open" or (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                number += 1
                before(number, name, arguments)
            return original(*arguments, **options)

        return call

    for name in (*WRITING, "open"):
        setattr(os, name, wrapped(name, getattr(os, name)))


def killed_at(number: int, torn: bool, operation: Operation, root: Path) -> bool:
    """Run an operation in a child that is killed before its call of this number; False if it has none any more."""
    child = os.fork()
    if child == 0:
        write = os.write

        def kill(each: int, name: str, arguments: tuple[Any, ...]) -> None:
            if each == number:
                if torn and name == "write":
                    write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(KILLED)

        status = 1
        try:
            count_calls(kill)
            operation(root)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if path.name != ".lock" and not path.name.startswith(".ihsm-")]


def attempts(template: Path, folder: Path) -> Iterator[tuple[int, Path]]:
    """Numbers from 1 on, each with a copy of the stores of its own."""
    for number in range(1, 1000):
        root = folder / str(number)
        shutil.copytree(template, root)
        yield number, root


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kill_leaves_old_or_new(name: str, torn: bool, template: Path, folder: Path) -> None:
    operation = OPERATIONS[name]
    old = state(template)
    shutil.copytree(template, folder / "whole")
    operation(folder / "whole")
    new = state(folder / "whole")
    assert new != old
    seen = []
    for number, root in attempts(template, folder):
        killed = killed_at(number, torn, operation, root)
        found = state(root)
        assert found in (old, new), f"killed before call {number}"
        if not killed:
            assert found == new
            break
        seen.append(found == new)
        if found == old and "state" not in name:
            operation(root)
            assert state(root) == new
        # The next change of each folder removes what was left there.
        for each in Store.names(root):
            _open_any(root, each)[0].add_key(a_key("later"))
        new_store(root, "later")
        assert leftovers(root) == []
        shutil.rmtree(root)
    assert len(seen) >= 3
    assert seen == sorted(seen), "once new, it stays"
    assert not seen[0]


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_a_machine_that_stops_keeps(
    name: str, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is on the disk before it has its name, its folder before the answer."""
    root = tmp_path / "stores"
    shutil.copytree(template, root)
    unsynced_files: set[int] = set()
    unsynced_folders: dict[int, str] = {}

    def inode(descriptor: int) -> int:
        return os.fstat(descriptor).st_ino

    def entry(path: Any, folder: int | None) -> tuple[os.stat_result, int]:
        """What a path names, and the folder that it is in."""
        parent = inode(folder) if folder is not None else os.stat(Path(path).parent).st_ino
        return os.stat(path, dir_fd=folder, follow_symlinks=False), parent

    write, fsync, rename, unlink, link = os.write, os.fsync, os.rename, os.unlink, os.link

    def seen_write(descriptor: int, data: Any) -> int:
        unsynced_files.add(inode(descriptor))
        return write(descriptor, data)

    def seen_fsync(descriptor: int) -> None:
        fsync(descriptor)
        unsynced_files.discard(inode(descriptor))
        unsynced_folders.pop(inode(descriptor), None)

    def seen_rename(old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        assert entry(old, src_dir_fd)[0].st_ino not in unsynced_files, f"{new} has its name too early"
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        unsynced_folders[entry(new, dst_dir_fd)[1]] = f"rename to {new}"

    def seen_link(old: Any, new: Any) -> None:
        assert entry(old, None)[0].st_ino not in unsynced_files
        link(old, new)
        unsynced_folders[entry(new, None)[1]] = f"link {new}"

    def seen_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if os.fspath(path).endswith(".json") and name != "delete":
            unsynced_folders[entry(path, dir_fd)[1]] = f"unlink {path}"
        unlink(path, dir_fd=dir_fd)

    for each in (seen_write, seen_fsync, seen_rename, seen_link, seen_unlink):
        monkeypatch.setattr(os, each.__name__.removeprefix("seen_"), each)
    OPERATIONS[name](root)
    monkeypatch.undo()
    assert not unsynced_files
    assert not unsynced_folders
