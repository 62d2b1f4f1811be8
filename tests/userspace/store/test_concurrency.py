# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Writers at the same time lose nothing, readers see one state: threads, and programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ihsm.errors import KeyExistsError, KeyNotFoundError, StoreExistsError
from ihsm.store import Store
from support.stores import a_key, a_version, new_store
from support.waiting import together

WRITERS = 4
EACH = 12


def threads(work: Callable[[int], object]) -> None:
    """Work done by several threads at once; fails if one does."""
    together(WRITERS, work)


def start(work: Callable[[], object]) -> int:
    """A child of fork() that does something."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def processes(work: Callable[[int], object]) -> None:
    """Work done by several processes at once; fails if one does."""
    children = [start(lambda number=number: work(number)) for number in range(WRITERS)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * WRITERS


AT_ONCE = pytest.mark.parametrize("at_once", [threads, processes])


@AT_ONCE
@pytest.mark.parametrize("shared", [True, False], ids=["one-object", "an-object-each"])
def test_nothing_is_lost(root: Path, at_once: Callable[[Callable[[int], object]], None], shared: bool) -> None:
    store = new_store(root)
    store.add_key(a_key("shared"))

    def work(number: int) -> None:
        mine = store if shared else Store.open("default", root=root)
        for turn in range(EACH):
            mine.add_key(a_key(f"{number}/{turn}"))
            mine.add_version("shared", a_version(number * EACH + turn))
            mine.rename_key(f"{number}/{turn}", f"{number}/{turn} renamed")
            if turn % 3 == 0:
                mine.delete_key(f"{number}/{turn} renamed")

    at_once(work)
    keys = store.keys()
    expected = {f"{number}/{turn} renamed" for number in range(WRITERS) for turn in range(EACH) if turn % 3}
    assert {key.label for key in keys} == expected | {"shared"}
    versions = store.key("shared").versions
    assert [version.version for version in versions] == list(range(1, WRITERS * EACH + 2))
    assert {version.attributes["mark"] for version in versions[1:]} == set(range(WRITERS * EACH))


@AT_ONCE
def test_one_of_several_wins(root: Path, at_once: Callable[[Callable[[int], object]], None], tmp_path: Path) -> None:
    """A label and a store's name are had by one; the others are told."""
    new_store(root)

    def work(number: int) -> None:
        store = Store.open("default", root=root)
        won = 0
        for turn in range(EACH):
            try:
                store.add_key(a_key(f"key {turn}", number))
                won += 1
            except KeyExistsError:
                pass
            try:
                new_store(root, f"store {turn}")
                won += 1
            except StoreExistsError:
                pass
        (tmp_path / f"won {number}").write_text(str(won))

    at_once(work)
    assert sum(int(path.read_text()) for path in tmp_path.glob("won *")) == 2 * EACH
    assert len(Store.names(root)) == EACH + 1
    assert sorted(path.name for path in root.glob(".*")) == [".lock"]


def test_readers_see_each_key_once(root: Path) -> None:
    """While keys are renamed, added and deleted by others, a list has those that stay, and the renamed one once."""
    store = new_store(root)
    staying = {f"stays {number}" for number in range(10)}
    for label in staying:
        store.add_key(a_key(label))
    store.add_key(a_key("a", 7))
    readable, writable = os.pipe()

    def change() -> None:
        os.close(readable)
        names = ("a", "b")
        for turn in range(60):
            store.rename_key(names[turn % 2], names[1 - turn % 2])
            store.add_key(a_key("passing"))
            store.delete_key("passing")

    child = start(change)
    os.close(writable)
    looks = 0
    done = False
    while not done:
        done = os.waitpid(child, os.WNOHANG)[0] == child
        looks += 1
        keys = store.keys()
        labels = [key.label for key in keys]
        assert staying <= set(labels)
        assert ("a" in labels) != ("b" in labels)
        for label in ("a", "b"):
            try:
                assert store.key(label).newest.attributes == {"mark": 7}
            except KeyNotFoundError:
                continue
    os.close(readable)
    assert looks > 1
    assert store.key("a").label == "a"


def test_a_list_that_missed_a_file_is_begun_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """POSIX leaves open whether readdir shows a file that is renamed meanwhile, under either name."""
    store = new_store(root)
    for label in ("web", "site"):
        store.add_key(a_key(label))
    listdir, calls = os.listdir, []

    def missing_one(descriptor: int) -> list[str]:
        calls.append(descriptor)
        return listdir(descriptor)[len(calls) == 1 :]

    monkeypatch.setattr(os, "listdir", missing_one)
    keys = store.keys()
    assert [key.label for key in keys] == ["site", "web"]


def test_a_child_that_was_forked_during_a_change_keeps_no_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(root)
    monkeypatch.setattr("ihsm.store.files.LOCK_WAIT_S", 0.0)
    readable, writable = os.pipe()
    children: list[int] = []

    def idle() -> None:
        os.close(writable)
        os.read(readable, 1)  # until the parent closes its end

    fsync = os.fsync

    def forking(descriptor: int) -> None:
        if len(children) < 3:
            children.append(start(idle))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", forking)
    store.add_key(a_key("web"))
    new_store(root, "other")
    store.add_key(a_key("later"))
    store.rename("renamed")
    assert len(children) == 3
    os.close(writable)
    for child in children:
        os.waitpid(child, 0)
    os.close(readable)


def test_a_pin_is_changed_while_others_update(root: Path) -> None:
    store = new_store(root, pin="0")

    def work(number: int) -> None:
        mine = Store.open("default", root=root, unlock=False)
        for turn in range(EACH):
            if number == 0:
                mine.change_pin(str(turn), str(turn + 1))
            else:
                mine.update(unwrapping_key=b"key %d" % turn)
                mine.add_key(a_key(f"{number}/{turn}"))

    processes(work)
    assert Store.open("default", pin=str(EACH), root=root).unwrapping_key == b"key %d" % (EACH - 1)
    assert store.key_count() == (WRITERS - 1) * EACH
