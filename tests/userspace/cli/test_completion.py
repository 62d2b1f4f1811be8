# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What shells complete: commands, options, stores and keys; without device and PIN."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from ihsm.cli import main
from ihsm.cli.completion import PROGRAM, VARIABLE
from support.commands import refused, succeed

pytestmark = pytest.mark.usefixtures("keys", "no_device")


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.api.hsm.Hsm.open", lambda *a, **k: pytest.fail("a device is opened"))


def completed(*words: str) -> set[str]:
    """What may follow, or complete the last word."""
    complete = ShellComplete(main, {}, PROGRAM, VARIABLE)
    return {item.value for item in complete.get_completions(list(words[:-1]), words[-1])}


def test_commands_and_options() -> None:
    assert {"key", "sign", "encrypt", "store"} <= completed("")
    assert completed("key", "gen") == {"generate"}
    assert {"--hash", "--pss", "--store"} <= completed("sign", "--")
    assert completed("key", "generate", "--kind", "aes256-") == {"aes256-gcm", "aes256-gcm-approved", "aes256-xts"}


def test_keys_and_stores() -> None:
    assert completed("sign", "p") == {"p256", "p384", "p521"}
    assert completed("key", "show", "rsa2") == {"rsa2048"}
    assert completed("encrypt", "p256@") == {"p256@1"}
    assert completed("key", "list", "--store", "") == {"default"}
    assert completed("sign", "--store", "other", "p") == set()
    assert completed("key", "generate", "p") == set(), "a new label is the user's to choose"


def test_a_store_that_cannot_be_read(stores: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", os.fspath(tmp_path / "none"))
    assert completed("sign", "p") == completed("key", "list", "--store", "") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_one(shell: str) -> None:
    script = succeed("completion", shell)
    assert VARIABLE.encode() in script
    program = shutil.which(shell)
    if program is not None:
        done = subprocess.run([program, "-n"], input=script, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_bash_completes_labels(tmp_path: Path) -> None:
    """The script in a shell, with the command on its path."""
    (tmp_path / "script").write_bytes(succeed("completion", "bash"))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    program = f"""
    source {tmp_path}/script
    COMP_WORDS=(ihsm sign p3) COMP_CWORD=2
    _ihsm_completion ihsm
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "p384\n", done.stderr


def test_no_other_shell() -> None:
    assert "'tcsh' is not one of" in refused(2, "completion", "tcsh")
