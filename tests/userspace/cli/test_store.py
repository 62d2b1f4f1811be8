# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm store`: list, rename, delete, export."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from ihsm.cli import main
from ihsm.store import Store, StoreDevice
from ihsm.store.sealing import Scrypt
from support.commands import run, run_json
from support.stores import IDENTITY, SECRETS, a_key, new_store, tree


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all stores."""
    monkeypatch.setattr("ihsm.store.unlocking.Scrypt", functools.partial(Scrypt, n=16))
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "data"))
    monkeypatch.delenv("IHSM_STORE", raising=False)
    return tmp_path / "data" / "ihsm"


def test_none(stores: Path) -> None:
    assert run("store", "list").output == "no store found; `ihsm init` makes one\n"
    assert run_json("store", "list") == []
    assert not stores.exists()


def test_the_list(stores: Path) -> None:
    first = new_store(stores, pin="1234", device=StoreDevice.at("pci:0000:01:00.0"))
    first.add_key(a_key("web"))
    first.add_key(a_key("site"))
    new_store(stores, "plain")
    broken = new_store(stores, "zz")
    (broken.path / "store.json").write_text("{")
    result = run("store", "list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[:4] for line in lines[:3]] == [
        ["NAME", "DEVICE", "KEYS", "PIN"],
        ["default", "pci:0000:01:00.0", "2", "yes"],
        ["plain", "private", "0", "no"],
    ]
    assert f"cannot be opened: {broken.path / 'store.json'}: damaged" in lines[3]
    assert result.stderr.count("permissions of its files are all that protects it") == 1
    assert "'plain'" in result.stderr
    record, _, damaged = run_json("store", "list")
    created = record.pop("created")
    assert created == first.created.isoformat().replace("+00:00", "Z")
    assert record == {
        "name": "default",
        "path": os.fspath(first.path),
        "device": {"kind": "uri", "uri": "pci:0000:01:00.0"},
        "keys": 2,
        "pin": True,
        "identity": IDENTITY.hex(),
    }
    assert set(damaged) == {"name", "error"}


def test_renaming(stores: Path) -> None:
    new_store(stores, pin="1234")
    result = run("store", "rename", "default", "café")
    assert (result.exit_code, result.output) == (0, "")
    assert Store.open("café", pin="1234", root=stores).secrets == SECRETS


def test_deleting(stores: Path) -> None:
    new_store(stores, pin="1234")
    refused = run("store", "delete", "default")
    assert (refused.exit_code, "--yes" in refused.output) == (2, True)
    assert Store.names(stores) == ["default"]
    assert run("store", "delete", "default", "--yes").exit_code == 0
    assert Store.names(stores) == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", []), ("n\n", ["default"]), ("\n", ["default"])])
def test_deleting_asks(stores: Path, answer: str, left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    new_store(stores)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda self: True, raising=False)
    result = CliRunner().invoke(main, ["store", "delete", "default"], input=answer)
    assert result.exit_code == (0 if not left else 1)
    assert "Delete store 'default' and its 0 keys for ever?" in result.stderr
    assert Store.names(stores) == left


def test_exporting(stores: Path, tmp_path: Path) -> None:
    store = new_store(stores)
    store.add_key(a_key("web"))
    tar = tmp_path / "backup.tar"
    result = run("store", "export", "-o", f"{tar}")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "permissions of its files" in result.stderr
    again = run("store", "export", "default", "--output", f"{tar}")
    assert (again.exit_code, "not replaced" in again.stderr) == (7, True)
    run("store", "delete", "default", "--yes")
    subprocess.run(["tar", "-xf", tar, "-C", stores], check=True)
    assert Store.open("default", root=stores).key("web").label == "web"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("rename", "other", "new"), 7, "ihsm init"),
        (("rename", "default", "default"), 7, "is not replaced"),
        (("rename", "default", "a/b"), 2, "no store's name"),
        (("rename", "../x", "y"), 2, "no store's name"),
        (("delete", "other", "--yes"), 7, "ihsm init"),
        (("export", "other", "-o", "x"), 7, "ihsm init"),
        (("export", "default", "-o", "/nowhere/x"), 7, "/nowhere/x"),
        (("export", "default"), 2, "--output"),
    ],
)
def test_what_is_refused(stores: Path, arguments: tuple[str, ...], status: int, text: str) -> None:
    new_store(stores)
    before = tree(stores / "default")
    result = run("store", *arguments)
    assert result.exit_code == status, result.output
    assert text in result.output
    after = tree(stores / "default")
    assert {name: data for name, data in after.items() if name != "lock"} == {
        name: data for name, data in before.items() if name != "lock"
    }


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: (1 << 32) - 20)
    result = run("store", "list")
    assert (result.exit_code, "set HOME or XDG_DATA_HOME" in result.stderr) == (7, True)
