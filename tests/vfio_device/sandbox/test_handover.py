# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Root's state directory becomes another user's, and nothing else does, whatever that user put in root's way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ihsm_device.errors import StateError
from ihsm_device.sandbox import handover
from ihsm_device.sandbox.privileges import LOOKOUT, User
from ihsm_device.state_lock import StateLock
from support.process import SERVE, lines_of, run_serve, serve

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
ATTACKER: Final = 54321
WANTED: Final = 54322


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    """User and group of a folder and of all that is in it, by path; links are not followed."""
    paths = [folder, *folder.rglob("*")]
    return {os.fspath(path): (path.lstat().st_uid, path.lstat().st_gid) for path in paths}


@contextmanager
def root_alone(path: Path) -> Iterator[None]:
    """A folder of root's with somebody's secret in it, that no start may change."""
    path.mkdir(0o700)
    (path / "device.json").write_text("{}")
    (path / "secret").write_text("root's")
    before = owners(path)
    yield
    assert owners(path) == before
    assert (path / "secret").read_text() == "root's"


def owned_by(user: int, path: Path) -> Path:
    """A folder of a user's, which everybody may enter."""
    path.mkdir(0o755)
    os.chown(path, user, user)
    return path


def test_a_link_that_somebody_else_put_there_is_not_followed(open_folder: Path) -> None:
    theirs = owned_by(ATTACKER, open_folder / "theirs")
    (theirs / "state").symlink_to(open_folder / "victim")
    os.lchown(theirs / "state", ATTACKER, ATTACKER)
    with root_alone(open_folder / "victim"):
        refused = run_serve("--socket", str(theirs / "s"), "--state", str(theirs / "state"))
        text = f"Error: {theirs}/state: a link of user {ATTACKER}, name the folder itself\n"
        assert (refused.returncode, refused.stderr) == (1, text)


def test_nor_one_on_the_way(open_folder: Path) -> None:
    theirs = owned_by(ATTACKER, open_folder / "theirs")
    (open_folder / "etc").mkdir(0o755)
    (theirs / "way").symlink_to(open_folder / "etc")
    os.lchown(theirs / "way", ATTACKER, ATTACKER)
    with root_alone(open_folder / "etc" / "state"):
        for user in ((), ("--user", str(WANTED))):
            refused = run_serve("--socket", str(open_folder / "s"), "--state", str(theirs / "way/state"), *user)
            assert (refused.returncode, refused.stderr.startswith(f"Error: {theirs}/way: a link of user")) == (1, True)


@pytest.mark.parametrize("name", ["notes.txt", "device.pem", "partition-x.json"])
def test_a_folder_with_other_files_is_not_given(open_folder: Path, name: str) -> None:
    with root_alone(open_folder / "state"):
        (open_folder / "state" / "secret").rename(open_folder / "state" / name)
        try:
            refused = run_serve(
                "--socket", str(open_folder / "s"), "--state", str(open_folder / "state"), "--user", str(WANTED)
            )
        finally:
            (open_folder / "state" / name).rename(open_folder / "state" / "secret")
    text = f"Error: the device cannot become user '{WANTED}': {open_folder}/state/{name} is no file of a device's\n"
    assert (refused.returncode, refused.stderr) == (1, text)


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_a_name_of_a_file_that_has_another_is_not_given(open_folder: Path, make: Callable[[Path, Path], None]) -> None:
    (open_folder / "shadow").write_text("root's")
    (open_folder / "state").mkdir(0o700)
    make(open_folder / "shadow", open_folder / "state" / "device.json")
    refused = run_serve("--socket", str(open_folder / "s"), "--state", str(open_folder / "state"), "--user", "54322")
    assert refused.returncode == 1
    assert {user for user, _ in owners(open_folder).values()} == {0}


def test_a_state_of_another_user_stays_theirs(open_folder: Path) -> None:
    state = owned_by(ATTACKER, open_folder / "state")
    state.chmod(0o700)
    refused = run_serve("--socket", str(open_folder / "s"), "--state", str(state), "--user", str(WANTED))
    text = f"Error: the device cannot become user '{WANTED}': {state} belongs to user {ATTACKER}\n"
    assert (refused.returncode, refused.stderr) == (1, text)
    assert owners(state) == {str(state): (ATTACKER, ATTACKER)}


@pytest.mark.parametrize(
    "options",
    [
        ("--socket", "{0}/missing/s"), ("--socket", "{0}/s", "--user", "1"), ("--socket", "{0}/roots/s"),
        ("--socket", "{0}/s", "--sandbox", "off"),
    ],
    ids=["no folder for the socket", "another user", "a folder for sockets of root's", "no sandbox"],
)  # fmt: skip
def test_a_start_that_is_refused_leaves_no_lock_in_somebody_elses_state(
    open_folder: Path, options: tuple[str, ...]
) -> None:
    state = owned_by(ATTACKER, open_folder / "state")
    state.chmod(0o700)
    (open_folder / "roots").mkdir(0o700)
    refused = run_serve("--state", str(state), *(option.format(open_folder) for option in options))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    left = [path for path, (user, _) in owners(state).items() if user != ATTACKER]
    assert left == []


def test_a_lock_that_the_user_cannot_open_is_named(open_folder: Path) -> None:
    state = owned_by(ATTACKER, open_folder / "state")
    state.chmod(0o700)
    (state / "lock").touch(0o600)
    refused = run_serve("--socket", str(open_folder / "s"), "--state", str(state))
    assert refused.stderr == f"Error: {state}/lock: cannot be used (Permission denied)\n"


def test_root_makes_a_state_that_the_user_could_not(open_folder: Path) -> None:
    """As below /var/lib; links of root's on the way are no obstacle."""
    (open_folder / "var").mkdir(0o755)
    (open_folder / "link").symlink_to("var/../var")
    state = open_folder / "link" / "deep" / "state"
    with serve("--socket", str(open_folder / "s"), "--state", str(state), "--user", str(WANTED)) as server:
        assert server.status()["sandbox"]["weaker"] == []
        assert set(owners(open_folder / "var/deep/state").values()) == {(WANTED, WANTED)}
    assert (open_folder / "var/deep").stat().st_uid == 0


def test_a_user_makes_the_state_in_a_folder_that_is_theirs(open_folder: Path) -> None:
    theirs = owned_by(ATTACKER, open_folder / "theirs")
    with serve("--socket", str(theirs / "s"), "--state", str(theirs / "state")) as server:
        assert server.status()["sandbox"]["user"] == ATTACKER
        assert set(owners(theirs).values()) == {(ATTACKER, ATTACKER)}


def test_keys_of_root_are_not_for_whoever_owns_the_sockets_folder(open_folder: Path) -> None:
    """They are for whom --user names."""
    state = open_folder / "state"
    with serve("--socket", str(open_folder / "s"), "--state", str(state), "--user", "root"):
        pass
    theirs = owned_by(ATTACKER, open_folder / "theirs")
    theirs.chmod(0o777)
    before = owners(state)
    with serve("--socket", str(theirs / "s"), "--state", str(state)) as server:
        assert server.status()["sandbox"]["user"] not in (0, ATTACKER)
        assert server.stop() == 0
    assert before.keys() == owners(state).keys()
    assert ATTACKER not in {user for user, _ in owners(state).values()}


def test_a_user_may_have_links_to_what_is_theirs(open_folder: Path) -> None:
    theirs = owned_by(ATTACKER, open_folder / "theirs")
    owned_by(ATTACKER, theirs / "elsewhere").chmod(0o700)
    (theirs / "state").symlink_to("elsewhere")
    os.lchown(theirs / "state", ATTACKER, ATTACKER)
    with serve("--socket", str(open_folder / "s"), "--state", str(theirs / "state")) as server:
        assert server.status()["sandbox"]["user"] == ATTACKER


@pytest.mark.parametrize("user", [(), ("--user", "root")], ids=["nobody named", "root"])
def test_root_keeps_no_state_where_others_could_put_something_else(open_folder: Path, user: tuple[str, ...]) -> None:
    """Whoever owns a folder on the way can change what is there between any two looks: so it is not used at all."""
    theirs = owned_by(ATTACKER, open_folder / "theirs")
    (theirs / "link").symlink_to(open_folder / "victim")
    with root_alone(open_folder / "victim"):
        for name in ("state", "link"):
            options = ("--socket", str(open_folder / "s"), "--state", str(theirs / name), *user)
            refused = run_serve(*options)
            text = f"Error: {theirs / name}: root keeps no state where others can put something else, and {theirs} is"
            assert (refused.returncode, refused.stderr.startswith(text)) == (1, True), refused.stderr
    assert [path.name for path in theirs.iterdir()] == ["link"]


def test_a_lock_is_not_made_behind_somebody_elses_link(open_folder: Path) -> None:
    """Which may appear when everything has been looked at, in a folder that is everybody's."""
    (open_folder / "victim").mkdir(0o700)
    (open_folder / "state").symlink_to(open_folder / "victim")
    os.lchown(open_folder / "state", ATTACKER, ATTACKER)
    with pytest.raises(StateError, match="a link of user"):
        StateLock(open_folder / "state")
    assert list((open_folder / "victim").iterdir()) == []


@pytest.mark.parametrize("place", ["a file", "a server", "no folder"])
def test_a_socket_that_cannot_be_had_keeps_roots_state_with_root(open_folder: Path, place: str) -> None:
    path, state = open_folder / "s", open_folder / "state"
    with serve("--socket", str(path), "--state", str(state), "--user", "root") as server:
        assert server.stop() == 0
    before = owners(state)
    options = ("--state", str(state), "--user", str(WANTED))
    if place == "a server":
        with serve("--socket", str(path)):
            refused = run_serve("--socket", str(path), *options)
    elif place == "a file":
        path.touch()
        refused = run_serve("--socket", str(path), *options)
    else:
        refused = run_serve("--socket", str(open_folder / "missing" / "s"), *options)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert owners(state) == before


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_folders_on_the_way_are_for_the_user_to_pass_whatever_the_umask(open_folder: Path, umask: int) -> None:
    state = open_folder / "deep" / "deeper" / "state"
    program = ("sh", "-c", f'umask {umask:03o}; exec "$@"', "sh", *SERVE)
    options = ("--socket", str(open_folder / "s"), "--state", str(state), "--user", str(WANTED))
    with serve(*options, program=program) as server:
        assert server.status()["sandbox"]["user"] == WANTED
        assert server.stop() == 0
    assert {path.stat().st_mode & 0o777 for path in (state.parent, state.parent.parent)} == {0o755}
    with serve(*options):
        pass


def test_a_folder_that_cannot_be_given_whole_stays_as_it_was(
    open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, chown = open_folder / "state", os.chown
    with serve("--socket", str(open_folder / "s"), "--state", str(state), "--user", "root"):
        pass
    before = owners(state)
    calls: list[Path] = []

    def refuse_the_last(path: Path, *arguments: int, follow_symlinks: bool) -> None:
        calls.append(path)
        if path == state:
            raise PermissionError("an immutable folder")
        chown(path, *arguments, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "chown", refuse_the_last)
    with pytest.raises(PermissionError):
        handover.hand_over(state, User(WANTED, WANTED))
    assert len(calls) > 2
    assert owners(state) == before


def test_who_is_quicker_than_root_gets_nothing(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that appears between looking and making, in a folder that is everybody's."""
    state, lock = open_folder / "state", handover.StateLock

    def beaten(path: Path) -> handover.StateLock:
        path.symlink_to(open_folder / "victim")
        os.lchown(path, ATTACKER, ATTACKER)
        return lock(path)

    (open_folder / "victim").mkdir(0o700)
    (open_folder / "victim" / "device.json").write_text("{}")
    monkeypatch.setattr(handover, "StateLock", beaten)
    with pytest.raises(StateError, match="a link of user"):
        handover.hand_over(state, User(WANTED, WANTED))
    assert {user for user, _ in owners(open_folder / "victim").values()} == {0}


def test_links_that_lead_in_a_circle_and_files_on_the_way_end(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    for state in ("circle/state", "file/state"):
        refused = run_serve("--socket", str(tmp_path / "s"), "--state", str(tmp_path / state))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), refused.stderr


@pytest.mark.parametrize("program", [(), ("setpriv", "--bounding-set=-setpcap")], ids=["usual", "no CAP_SETPCAP"])
def test_nothing_that_is_executed_gets_a_capability(open_folder: Path, program: tuple[str, ...]) -> None:
    """Where root becomes another user too; who may not give them up says so."""
    if program and subprocess.run([*program, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no setpriv")
    with serve("--socket", str(open_folder / "s"), program=(*program, *SERVE)) as server:
        shown = server.status()["sandbox"]
        sets = {int(lines_of(pid)["CapBnd"], 16) for pid in (server.pid, shown["lookout"]["pid"])}
        assert (sets == {0}) is (not program)
        assert any("capabilities" in text for text in shown["weaker"]) is bool(program)
        assert shown["user"] != 0
        assert shown["lookout"]["user"] == LOOKOUT
