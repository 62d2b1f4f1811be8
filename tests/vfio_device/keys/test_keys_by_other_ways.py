# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that are reached through the model of the Linux driver, and those of a store: none leaves the device's arena."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Final

import pytest

from ihsm.store import Store
from support import store_life
from support.commanded import Commander
from support.device_secrets import DeviceSecrets
from support.kmod_run import KMOD_RUN
from support.memory_index import Index, Place, names
from support.process import serve
from support.watched import CLIENT_HAS, IN_CLEAR, PLANTED, settle

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root reads the memory of a process that may not be dumped"),
]
NODE: Final = "chardev:/dev/azihsm0"


def test_keys_of_a_store_are_in_its_device_alone(tmp_path: Path) -> None:
    pin = secrets.token_hex(16)
    life = Commander("support.store_life")
    try:
        pid = life("create", str(tmp_path), pin)["pid"]
        life("make")
        store = Store.open(store_life.NAME, pin=pin, root=tmp_path)
        known = DeviceSecrets(tmp_path / store_life.NAME / "device")
        known.learn_device()
        alive = known.learn_store(store)
        assert len(alive) >= len(store_life.KINDS)
        known.add("told:user-pin", pin.encode())
        index = Index(known.values)
        found = index.in_process(pid)
        assert names(found, Place.OUTSIDE) <= IN_CLEAR
        assert alive | known.device | known.partition <= names(found, Place.ARENA)
        program = index.in_process(life.process.pid)
        assert not {hit.secret for hit in program if not hit.secret.startswith("told:")}
        life("close")
        assert not {hit.secret for hit in index.in_process(life.process.pid) if not hit.secret.startswith("told:")}
    finally:
        life.end()
    assert index.in_files([tmp_path]) == {("key:device-secret", "device.secret")}


def test_the_driver_model_has_no_key(socket_folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serve("--socket", str(socket_folder / "s"), "--state", str(state)) as server:
        model = [*KMOD_RUN, "--socket", str(server.paths[0]), "--", sys.executable]
        life = Commander("support.client_life", program=model)
        try:
            own = life("connect", NODE)
            life("provision")
            tell = life("make", "2048")
            known = DeviceSecrets(state)
            known.learn_device()
            known.learn_provisioning(own, tell)
            alive = {
                secret
                for name, masked in life("masked").items()
                for secret in known.learn_key(name, bytes.fromhex(masked))
            }
            known.learn_uses(tell)
            index = Index(known.values)
            found = index.in_process(server.pid)
            assert names(found, Place.OUTSIDE) - PLANTED <= IN_CLEAR
            assert alive | known.device | known.partition <= names(found, Place.ARENA)
            # The model and the program are this process and its children.
            for pid in (life.process.pid, *children(life.process.pid)):
                others = {str(hit) for hit in index.in_process(pid) if not hit.secret.startswith(CLIENT_HAS)}
                assert others == set(), pid
        finally:
            life.end()
        settle(server)
        assert names(index.in_process(server.pid), Place.ARENA) == known.device


def children(pid: int) -> list[int]:
    """All that a process has started and that lives, and what those have."""
    found = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [*found, *(below for child in found for below in children(child))]
