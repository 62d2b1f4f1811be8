# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A served device and its client, both processes of their own, and all secrets that are to be found in them or not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ihsm.bus import VfioUserFunction
from support.commanded import Commander
from support.device_secrets import DeviceSecrets
from support.memory_index import Index, Place, mappings, names
from support.process import SERVE, ServeProcess, serve
from support.registers import of_threads as registers_of
from support.waiting import HANG_S

PLANTED: Final = {"key:planted", "told:planted"}
"""The client has the device keep this key as a label too, which lies where labels lie."""
IN_CLEAR: Final = {"told:bk3"}
"""InitBk3 brings it as it is: memory of the message that was freed may have it."""
CLIENT_HAS: Final = ("told:", "key:planted", "key:brought-", "passing:kek", "passing:channel", "passing:shared")
"""What the client brought, drew or computed itself."""
BEARABLE: Final[tuple[dict[str, Any], ...]] = (
    {
        "action": "delay-completion",
        "match": {"queue": 1},
        "when": {"nth": 3, "per_mille": 300},
        "parameters": {"ms": 5},
    },
    {"action": "duplicate-completion", "match": {"queue": 1}, "when": {"per_mille": 200}},
    {"action": "delay-interrupt", "when": {"per_mille": 300}, "parameters": {"ms": 5}},
)


class Watched:
    """A server, its client, and what is to be found in them."""

    def __init__(self, server: ServeProcess, state: Path) -> None:
        self.server, self.state = server, state
        self.secrets = DeviceSecrets(state)
        self.of_key: dict[str, list[str]] = {}
        """Names of secrets that live as long as a key of the client's."""
        self.new_client()

    def new_client(self) -> None:
        self.client = Commander("support.client_life")
        self.own: dict[str, str] = self.client("connect", str(self.server.paths[0]))

    def learn(self, tell: dict[str, Any]) -> None:
        """Compute all secrets that there are by now."""
        self.secrets.learn_device()
        self.secrets.learn_provisioning(self.own, tell)
        for name, masked in self.client("masked").items():
            if name not in self.of_key:
                self.of_key[name] = self.secrets.learn_key(name, bytes.fromhex(masked))
        self.secrets.learn_uses(tell)

    def keys(self, *without: str) -> set[str]:
        """Secrets that live with the client's keys."""
        return {secret for name, secrets in self.of_key.items() if name not in without for secret in secrets}

    def expect(self, alive: set[str]) -> None:
        """The server has the living secrets in its arena, no other there, and none anywhere else."""
        index = Index(self.secrets.values)
        registers = {name for kept in registers_of(self.server.pid) for name, _ in index.hits(kept)}
        assert registers == set(), "in registers of a thread that sleeps"
        found = index.in_process(self.server.pid)
        outside = names(found, Place.OUTSIDE)
        assert outside - PLANTED - IN_CLEAR == set(), [str(hit) for hit in found if hit.place is Place.OUTSIDE]
        assert outside >= PLANTED or "key:planted" not in alive, "the search finds what lies beside the arena"
        # Of what the client told, some is the device's as well, under the name that it has there.
        inside = {name for name in names(found, Place.ARENA) if not name.startswith("told:")}
        assert inside - alive == set(), "gone, or needed for a moment only"
        assert alive - inside == set(), "the search finds what is there"
        assert not {hit.secret for hit in found if hit.place is Place.SHARED and not hit.secret.startswith(CLIENT_HAS)}

    def expect_in_client(self) -> None:
        """The client's memory has nothing but what the client had before the device did."""
        found = Index(self.secrets.values).in_process(self.client.process.pid)
        assert {str(hit) for hit in found if not hit.secret.startswith(CLIENT_HAS)} == set()
        assert "told:pin" in {hit.secret for hit in found}, "the search finds what is there"

    def expect_in_texts(self, *texts: str) -> None:
        """Neither have the log and what the control socket tells, but for the planted label."""
        index = Index(self.secrets.values)
        said = [json.dumps(self.server.control(command).result) for command in ("status", "fault.list")]
        for text in (*texts, *said, *self.server.errors):
            assert index.in_bytes(text.encode()) == set()

    def expect_in_core(self, folder: Path) -> None:
        """What a debugger of root's writes as a core has no secret either."""
        subprocess.run(["gcore", "-o", str(folder / "core"), str(self.server.pid)], check=True, capture_output=True)
        core = folder / f"core.{self.server.pid}"
        assert {name for name, _ in Index(self.secrets.values).hits(core.read_bytes())} <= PLANTED | IN_CLEAR
        core.unlink()

    def expect_nothing_swapped(self) -> None:
        """The arena is locked, as the device says."""
        arena = [mapping for mapping in mappings(self.server.pid) if mapping.place is Place.ARENA]
        assert arena
        assert not any(mapping.swapped_kib for mapping in arena)
        memory = self.server.status()["module"]["key_memory"]
        if memory["locked_bytes"] == memory["reserved_bytes"]:
            assert all(mapping.locked for mapping in arena)


def settle(server: ServeProcess) -> None:
    """Wait until nothing is left of a client that has gone: the next one is answered then."""
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S):
        pass


def add_faults(server: ServeProcess) -> None:
    """Faults that hit some commands, and that the client bears."""
    for fault in BEARABLE:
        answer = server.control("fault.add", **fault)
        assert answer.result is not None, answer


@contextmanager
def tracing(server: ServeProcess, file: Path) -> Iterator[None]:
    """`ihsm trace` writes all that it gets."""
    uri = f"vfio-user:{server.paths[0]}"
    recorder = subprocess.Popen(
        [*SERVE[:-1], "trace", "--device", uri, "--write", str(file)], stderr=subprocess.DEVNULL
    )
    try:
        yield
        assert recorder.wait(HANG_S) == 0
    finally:
        recorder.kill()
        recorder.wait()


@contextmanager
def watched(folder: Path, state: Path, *options: str) -> Iterator[Watched]:
    with serve("--socket", str(folder / "s"), "--state", str(state), *options) as server:
        watch = Watched(server, state)
        try:
            yield watch
        finally:
            watch.client.end()
