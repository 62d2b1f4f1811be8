# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands where something is missing that is mostly there: a home, a cache, a short TMPDIR, docstrings, a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import run_process
from support.waiting import HANG_S

STRANGER = 54321
"""A user without an entry in passwd."""


def bare(**more: str) -> dict[str, str]:
    """The environment without what tells where a user's files are."""
    return {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")} | more


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")


@needs_root
def test_a_user_without_home_gets_findings(tmp_path: Path) -> None:
    done = run_process("doctor", "--json", env=bare(), user=STRANGER, group=STRANGER, extra_groups=[], cwd="/")
    findings = {finding["part"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert f"user {STRANGER} has no home; set HOME or XDG_CACHE_HOME" in findings["guest kernel"]["detail"]
    assert findings["memory sharing"]["health"] == "ok"
    assert done.stderr == b""


@needs_root
@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("guest", "--exec", "true"), 125), (("list",), 0), (("info",), 0), (("qemu-args",), 0), (("bench", "guest"), 1)],
)
def test_a_user_without_home_gets_one_line(arguments: tuple[str, ...], status: int) -> None:
    done = run_process(*arguments, env=bare(), user=STRANGER, group=STRANGER, extra_groups=[], cwd="/")
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if b" ihsm.uri: auto: " not in line]  # which device was taken
    assert len(lines) == (1 if status else 0), done.stderr


@pytest.mark.parametrize("variable", [{"HOME": ""}, {"HOME": "relative"}, {"XDG_CACHE_HOME": "relative", "HOME": "x"}])
def test_a_home_that_is_no_path_counts_as_none(variable: dict[str, str]) -> None:
    done = run_process("guest", "--exec", "true", env=bare(**variable))
    assert done.returncode == 125
    assert done.stderr.startswith(b"Error: no cache folder: ")


def test_help_does_not_come_from_docstrings() -> None:
    """-OO strips them."""
    environment = {**os.environ, "PYTHONOPTIMIZE": "2"}
    plain = run_process("--help")
    assert b"Exit status: 0 success" in plain.stdout
    assert run_process("--help", env=environment).stdout == plain.stdout
    for name in (
        "bench",
        "doctor",
        "guest",
        "info",
        "init",
        "list",
        "qemu-args",
        "selftest",
        "serve",
        "status",
        "verify-report",
    ):
        assert run_process(name, "--help", env=environment).stdout == run_process(name, "--help").stdout


def test_the_key_stores_errors_do_not_come_from_docstrings() -> None:
    program = "from ihsm_device.hsm.keystore import native\nnative.check(native.lib.KS_STALE)"
    done = subprocess.run([sys.executable, "-OO", "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.rstrip().endswith(
        "StaleHandleError: The handle's key was destroyed, or the handle never existed"
    )


@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_the_device_works_without_asserts_and_docstrings(option: str) -> None:
    environment = {**os.environ, "PYTHONOPTIMIZE": str(option.count("O"))}
    done = run_process("selftest", env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def foreign_folder(tmp_path: Path) -> Path:
    """Files that lie there by chance, or for somebody to run them."""
    for name in ("click.py", "numpy.py", "types.py", "ihsm.py"):
        (tmp_path / name).write_text("import os\nos.mkdir('RAN')\nraise SystemExit('of the current folder')\n")
    return tmp_path


def test_no_file_of_the_current_folder_is_run(foreign_folder: Path) -> None:
    """By the private device, which is a process of its own; the program itself is started as it is installed."""
    program = Path(sys.executable).with_name("ihsm")
    done = subprocess.run([program, "info"], cwd=foreign_folder, capture_output=True, check=False, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert not (foreign_folder / "RAN").exists()


@pytest.mark.parametrize("path", [":", ":/nowhere", "/nowhere:"])
def test_an_empty_entry_of_pythonpath_is_not_handed_on(path: str, foreign_folder: Path) -> None:
    code = "from ihsm.embedded import EmbeddedDevice; EmbeddedDevice().close()"
    set_path = f"import os; os.environ['PYTHONPATH'] = {path!r}; "
    command = [sys.executable, "-P", "-c", set_path + code]
    done = subprocess.run(command, cwd=foreign_folder, capture_output=True, check=False, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert not (foreign_folder / "RAN").exists()


def test_a_long_tmpdir(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    done = run_process("info", "--json", env={**os.environ, "TMPDIR": str(folder)})
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["uri"]) < 107


def test_a_current_folder_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    for arguments, status in ((["info"], 0), (["qemu-args", "--socket", "0.sock"], 1)):
        folder.mkdir()
        command = ["sh", "-c", script, "sh", str(folder), sys.executable, "-P", "-m", "ihsm", *arguments]
        done = subprocess.run(command, capture_output=True, check=False, timeout=HANG_S)
        assert done.returncode == status, done.stderr
    assert done.stderr == b"Error: the current folder: No such file or directory\n"


def test_set_up_does_not_run_files_of_the_current_folder(tmp_path: Path) -> None:
    """It is started from wherever the user is. A cache that cannot be keeps it from setting anything up here."""
    (tmp_path / "tempfile.py").write_text("raise SystemExit('of the current folder')\n")
    script = Path(__file__).parents[3] / "scripts" / "setup"
    environment = bare(XDG_CACHE_HOME="/proc/none")
    done = subprocess.run([script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1, "setup: /proc/none/ihsm: No such file or directory; name another cache with XDG_CACHE_HOME\n"
    )  # fmt: skip
