# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Several servers want one state directory: one has it, the others say so and leave it as it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.hosts import chain
from support.process import SERVE, run_serve, serve
from support.waiting import HANG_S

SERVERS: Final = 4
USERS: Final = (54321, 54322)


def owners(state: Path) -> set[tuple[int, int]]:
    """Of the directory and all that is in it: user and mode."""
    return {(file.stat().st_uid, file.stat().st_mode & 0o777) for file in (state, *state.iterdir())}


def test_of_servers_that_start_at_once_one_has_the_state(socket_folder: Path, tmp_path: Path) -> None:
    """The directory is not there yet: whoever comes first makes the device, and no other writes into it."""
    state = tmp_path / "state"
    processes = [
        subprocess.Popen(
            [*SERVE, "--socket", str(socket_folder / f"{number}.sock"), "--state", str(state)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(SERVERS)
    ]
    said = [process.stdout.readline() if process.stdout else "" for process in processes]
    (winner,) = (number for number, line in enumerate(said) if line.startswith("ready:"))
    before = chain(socket_folder / f"{winner}.sock")
    for number, process in enumerate(processes):
        if number == winner:
            process.terminate()
        _, errors = process.communicate(timeout=HANG_S)
        expected = (0, "") if number == winner else (1, f"Error: {state}: in use by another process\n")
        assert (process.returncode, errors) == expected
    assert list(socket_folder.iterdir()) == []
    with serve("--socket", str(socket_folder / "again.sock"), "--state", str(state)) as server:
        assert chain(server.paths[0]) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers become users")
def test_a_second_server_of_another_user_does_not_take_the_state_away(open_folder: Path) -> None:
    """Nor does it have the first one's files belong to somebody else before it sees that they are in use."""
    state, path = open_folder / "state", open_folder / "a"
    options = ("--state", str(state), "--user")
    with serve("--socket", str(path), *options, "root") as server:
        before = owners(state)
        refused = run_serve("--socket", str(open_folder / "b"), *options, str(USERS[1]))
        assert (refused.returncode, refused.stderr) == (1, f"Error: {state}: in use by another process\n")
        assert owners(state) == before == {(0, 0o700), (0, 0o600)}
        chain(path)  # stores the certificate
        assert server.errors == []
        assert server.stop() == 0
    with serve("--socket", str(path), *options, str(USERS[1])):
        assert {user for user, _ in owners(state)} == {USERS[1]}


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes files where others cannot")
def test_root_makes_no_file_where_the_owner_of_the_state_wants_one(open_folder: Path) -> None:
    """A lock file that leads elsewhere is not followed."""
    state, elsewhere = open_folder / "state", open_folder / "elsewhere"
    state.mkdir(0o700)
    (state / "lock").symlink_to(elsewhere)
    os.chown(state, USERS[0], USERS[0])
    refused = run_serve("--socket", str(open_folder / "a"), "--state", str(state))
    assert (refused.returncode, refused.stderr) == (
        1, f"Error: {state}/lock: cannot be used (Too many levels of symbolic links)\n",
    )  # fmt: skip
    assert not elsewhere.exists()
