# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that know nothing of ihsm: what they get from the node and the files of the driver model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from support.kmod_run import FORBIDDING, UNPRIVILEGED, kmod_run, printed
from support.programs import DIFFERENCES, HELPER, chardev_user, on_host, report, static_go_user
from support.stores import NOBODY

NODE: Final = "/dev/azihsm0"


class Way(NamedTuple):
    """How the calls of a program come to the driver model."""

    via: str
    is_static: bool

    @property
    def program(self) -> list[str | Path]:
        """Words of `ihsm kmod run` for the program with the stages."""
        return ["--via", self.via, "--", chardev_user(static=self.is_static), "--helper", HELPER]


VIAS: Final = ("notify", "preload")
WAYS: Final = {
    "notify": Way("notify", False),
    "notify-static": Way("notify", True),
    "preload": Way("preload", False),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def own_folders(socket_folder: Path) -> dict[str, str]:
    """Environment of the user of `UNPRIVILEGED`, who has folders of his own."""
    folders = {
        name: socket_folder / name for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR")
    }
    socket_folder.chmod(0o755)
    for folder in folders.values():
        folder.mkdir(mode=0o700)
        if UNPRIVILEGED:
            os.chown(folder, NOBODY, NOBODY)
    usable = ["sh", "-c", 'test -x "$0" && exec "$1" -P -c "import ihsm"', chardev_user(), sys.executable]
    tried = subprocess.run([*UNPRIVILEGED, *usable], capture_output=True, cwd="/")
    if tried.returncode:
        pytest.skip(f"user {NOBODY} cannot enter the checkout: have it in a folder that all may enter")
    return {name: str(folder) for name, folder in folders.items()}


def test_a_program_gets_what_the_driver_gives(way: Way) -> None:
    assert printed(*way.program) == on_host(way.via, report())


def test_a_user_without_privileges_gets_the_same(way: Way, own_folders: dict[str, str]) -> None:
    """In a container that forbids to mount and to trace, besides."""
    before = (*FORBIDDING, "namespaces", *UNPRIVILEGED)
    assert printed(*way.program, before=before, environment=own_folders, cwd="/") == on_host(way.via, report())


@pytest.mark.parametrize("via", VIAS)
def test_a_program_that_hides_may_do_so_at_any_time(via: str, own_folders: dict[str, str]) -> None:
    stages = 8 * ("--stage", "non-dumpable")
    command = ("--via", via, "--", chardev_user(), *stages)
    lines = on_host(via, report("non-dumpable"))
    assert printed(*command, before=UNPRIVILEGED, environment=own_folders, cwd="/") == 8 * lines


@pytest.mark.parametrize("via", VIAS)
def test_what_differs_from_linux_is_in_the_report(via: str) -> None:
    assert DIFFERENCES[via].keys() - {*report()} == set()


def test_a_static_program_in_go() -> None:
    assert printed("--via", "notify", "--", static_go_user()) == [
        f"found: [{NODE}]",
        "mode: Dc---------",
        "driver: 3.2.0 0",
        "an unknown number: invalid request code",
        "GetApiRev: true 0",
        "goroutines: 8 commands answered: 200",
        "the parent's file in a child: permission denied",
        "a file of the child's own: 3.2.0 0",
        f"one that is not there: open {NODE}7: no such file or directory",
    ]


def test_ihsm_names_the_node_and_takes_it(tmp_path: Path) -> None:
    """The function is in the machine's /sys alone: nobody can open it."""
    alone = {"XDG_RUNTIME_DIR": str(tmp_path), "IHSM_DEVICE": ""}
    info = ("--", sys.executable, "-m", "ihsm", "info", "--device")
    refused = kmod_run(*info, "auto", environment=alone)
    assert refused.returncode == 3
    assert refused.stderr.endswith(f"name it with --device: chardev:{NODE}\n")
    assert printed(*info, refused.stderr.split()[-1], environment=alone)
