# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys of a served device: where they are, and where they are not, from their making to the end of the server.

The server is the real one, confined; the client is a process of its own. Every secret is computed from the state
directory and from what the client knows, in every form that gives a key away, and searched for by root in the memory of
both, in a core of the server, in files, log, trace and on the control socket.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from support.commanded import Commander
from support.device_secrets import DeviceSecrets
from support.memory_index import Index, Place, mappings, names
from support.process import ServeProcess, serve

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the memory of a process that may not be dumped")
PLANTED: Final = "key:planted"
"""The client has the device keep this key as a label too."""


class Watched:
    """A server, its client, and what is to be found in them."""

    def __init__(self, server: ServeProcess, folder: Path, state: Path) -> None:
        self.server, self.folder, self.state = server, folder, state
        self.client = Commander("support.client_life")
        self.secrets = DeviceSecrets(state)
        self.of_key: dict[str, list[str]] = {}
        """Names of secrets that live as long as a key."""
        self.own: dict[str, str] = {}

    def connect(self) -> None:
        self.own = self.client("connect", str(self.server.paths[0]))

    def learn(self, tell: dict[str, Any]) -> None:
        self.secrets.learn_device()
        self.secrets.learn_provisioning(self.own, tell)
        for name, masked in self.client("masked").items():
            if masked:
                self.of_key[name] = self.secrets.learn_key(name, bytes.fromhex(masked))
        self.secrets.learn_uses(tell)

    def expect(self, *alive: str) -> None:
        """Living secrets are in the arena, no other is, and none is anywhere else."""
        index = Index(self.secrets.values)
        found = index.in_process(self.server.pid)
        outside = [str(hit) for hit in found if hit.place is Place.OUTSIDE]
        inside = names(found, Place.ARENA)
        assert not outside
        assert inside - set(alive) == set(), "gone, or needed for a moment only"
        assert set(alive) - inside == set(), "the search finds what is there"


@contextmanager
def watched(folder: Path, tmp_path: Path, *options: str) -> Iterator[Watched]:
    state = tmp_path / "state"
    with serve("--socket", str(folder / "s"), "--state", str(state), *options) as server:
        watch = Watched(server, folder, state)
        try:
            yield watch
        finally:
            watch.client.end()


def test_probe(socket_folder: Path, tmp_path: Path) -> None:
    with watched(socket_folder, tmp_path) as watch:
        watch.connect()
        watch.client("provision")
        watch.learn(watch.client("make", "2048"))
        index = Index(watch.secrets.values)
        print(len(index._words))
        import time
        t = time.time()
        found = index.in_process(watch.server.pid)
        print(time.time() - t)
        for hit in sorted(map(str, found)):
            print("SERVER", hit)
        inside = names(found, Place.ARENA)
        for name in sorted(watch.secrets.values):
            if name not in inside and name.startswith(("key", "sched", "ghash", "hmac")):
                print("MISSING", name)
        for hit in sorted(map(str, index.in_process(watch.client.process.pid))):
            print("CLIENT", hit)
        for m in mappings(watch.server.pid):
            if m.place is Place.ARENA: print(m)
        assert 0
