# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where stores are."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from ihsm.errors import StoreError
from ihsm.store import Store, default_name, default_root
from support.stores import new_store

HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_DATA_HOME", "HOME", "IHSM_STORE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/me"}, Path("/data/ihsm")),
        ({"XDG_DATA_HOME": "", "HOME": "/home/me"}, Path("/home/me/.local/share/ihsm")),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/me"}, Path("/home/me/.local/share/ihsm")),
        ({}, HOME / ".local/share/ihsm"),
        ({"HOME": ""}, HOME / ".local/share/ihsm"),
    ],
)
def test_the_folder_of_all_stores(variables: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_root() == expected


@pytest.mark.parametrize("home", [None, "relative"])
def test_no_home(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, as in a container that is run with an arbitrary number."""
    monkeypatch.setattr(os, "getuid", lambda: (1 << 32) - 20)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    for work in (Store.names, Store.open, lambda: new_store(None)):  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="set HOME or XDG_DATA_HOME"):
            work()


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_name() == "default"
    monkeypatch.setenv("IHSM_STORE", "")
    assert default_name() == "default"
    monkeypatch.setenv("IHSM_STORE", "other")
    assert default_name() == "other"


def test_folders_are_made_as_the_specification_says(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b" / "ihsm"
    new_store(root)
    for folder in (root, root.parent, root.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
