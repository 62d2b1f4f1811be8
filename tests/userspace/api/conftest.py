# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices and stores of the key API's tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ihsm import Hsm
from support.process import ServeProcess, serve


class Place:
    """A folder with room for sockets, states of devices, and stores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "stores"

    def uri(self, name: str = "s") -> str:
        return f"vfio-user:{self.folder / name}"

    @contextlib.contextmanager
    def serve(self, name: str = "s", *options: str, state: str | None = "state") -> Iterator[ServeProcess]:
        """A device at the socket of this name; one that was killed may be there."""
        kept = ("--state", str(self.folder / state)) if state is not None else ()
        with serve("--socket", str(self.folder / name), *kept, *options) as server:
            yield server

    def create(self, store: str | None = None, name: str = "s") -> Hsm:
        """A store for the device at a socket."""
        return Hsm.create(store, device=self.uri(name), root=self.root)

    def open(self, store: str | None = None, **arguments: object) -> Hsm:
        return Hsm.open(store, root=self.root, **arguments)  # type: ignore[arg-type]


@pytest.fixture
def place(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Nothing of the user's own is looked at."""
    monkeypatch.delenv("IHSM_DEVICE", raising=False)
    monkeypatch.delenv("IHSM_STORE", raising=False)
    return Place(socket_folder)


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    """A private device, and a store that the tests of a module share."""
    with Hsm.private() as hsm:
        yield hsm


@pytest.fixture
def label(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Labels that no other test has."""
    return lambda name: f"{request.node.name} {name}"[-120:]
