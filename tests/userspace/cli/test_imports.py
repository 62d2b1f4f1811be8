# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a command does not load: who asks for little does not wait for much."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem

from ihsm.cli import _summaries, installed, main
from ihsm.embedded import EmbeddedDevice

LARGE = {"numpy", "cryptography", "_cffi_backend", "ihsm._native", "cbor2", "hdrh", "rich", "asyncio"}
METADATA = {"importlib.metadata", "email", "zipfile"}
PROGRAM = """
import sys
sys.argv[0] = "ihsm"
from ihsm.__main__ import run
try:
    run()
except SystemExit as end:
    print(end.code or 0, *sys.modules, file=sys.stderr)
"""


def loaded(*words: str, **environment: str) -> set[str]:
    """Names of the modules that a successful `ihsm` with these arguments has loaded at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    status, *names = done.stderr.splitlines()[-1].split()
    assert status == "0", done.stderr
    assert "click" in names  # which all have
    return set(names)


def commands(names: set[str]) -> set[str]:
    """Those of the modules that have a command."""
    own = {entry.module for entry in metadata.entry_points(group=installed.COMMAND_GROUP)}
    assert "ihsm.cli.status" in own
    return own & names


def test_the_version_loads_no_command_and_nothing_large() -> None:
    names = loaded("--version")
    assert commands(names) == set()
    assert names & (LARGE | METADATA) == set()
    assert {name for name in names if name.startswith("ihsm.")} == {
        *(
            "ihsm.__main__",
            "ihsm.errors",
            "ihsm.cli",
            "ihsm.cli.installed",
            "ihsm.cli.last_handler",
            "ihsm.cli.streams",
        ),
    }


def test_help_and_the_completion_of_commands_load_no_command_and_nothing_large() -> None:
    for names in (loaded("--help"), loaded(_IHSM_COMPLETE="bash_complete", COMP_WORDS="ihsm st", COMP_CWORD="1")):
        assert commands(names) == set()
        assert names & LARGE == set()


@pytest.mark.parametrize(
    "word", ["key", "sign", "verify", "encrypt", "cert", "store", "status", "list", "guest", "serve"]
)
def test_completing_an_option_loads_that_command_alone_and_nothing_large(word: str) -> None:
    names = loaded(_IHSM_COMPLETE="bash_complete", COMP_WORDS=f"ihsm {word} --", COMP_CWORD="2")
    (entry,) = metadata.entry_points(group=installed.COMMAND_GROUP, name=word)
    assert entry.module in commands(names)
    assert names & LARGE == set()


def test_the_status_of_a_served_function_takes_its_control_socket_alone(device: EmbeddedDevice) -> None:
    names = loaded("status", "--device", f"vfio-user:{device.socket_path}")
    assert names & (LARGE | METADATA | {"subprocess", "pyudev"}) == set()
    assert {name for name in names if name.startswith(("ihsm.bus", "ihsm.driver", "ihsm.ddi", "ihsm.chardev"))} == set()
    assert "ihsm.control" in names
    assert loaded("list") & (LARGE | METADATA | {"pyudev"}) == set()


def test_numpy_makes_no_threads_and_programs_that_we_start_have_their_own_say() -> None:
    count = "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    run = "from ihsm import __main__; import ihsm.cli; ihsm.cli.main = lambda: None"
    run += "\ntry: __main__.run()\nexcept SystemExit: pass"
    child = "import subprocess; subprocess.run(['env'], env=dict(os.environ))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    words = [sys.executable, "-c", f"{run}\n{count}\n{child}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[0] == "1"
    assert "OPENBLAS_NUM_THREADS" not in done.stdout


def test_info_takes_no_cryptography(device: EmbeddedDevice) -> None:
    names = loaded("info", "--device", f"vfio-user:{device.socket_path}")
    assert (
        names & {"cryptography", "cbor2", "pyudev", "ihsm.chardev.device", "ihsm_abi.ddi.crypto", "ihsm_abi.ddi.keys"}
        == set()
    )


def test_what_help_says_of_a_command_is_what_the_command_says() -> None:
    context = click.Context(main, info_name="ihsm")
    for name, summary in _summaries().items():
        command = main.get_command(context, name)
        assert command is not None
        for limit in range(20, 100):
            assert click.Command(name, help=summary).get_short_help_str(limit) == command.get_short_help_str(limit)
    assert sorted(_summaries()) == main.list_commands(context)


def test_a_command_of_another_distribution_is_loaded_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "other-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (folder / "entry_points.txt").write_text("[ihsm.commands]\nother = other_command:other\n")
    (tmp_path / "other_command.py").write_text(
        'import click\n\n@click.command(help="Do something else. Do more.")\ndef other():\n    click.echo("done")\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def output(*words: str) -> str:
        command = [sys.executable, "-m", "ihsm", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    assert output("other") == "done\n"
    assert re.search(r"^  other +Do something else\.?$", output("--help"), re.MULTILINE)


def test_the_version_is_that_of_the_distribution_whether_its_files_are_found_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = metadata.version(installed.DISTRIBUTION)
    assert installed.version() == wanted
    monkeypatch.setattr(installed, "_folder", lambda: None)
    assert installed.version() == wanted
    installed._own_commands.cache_clear()
    try:
        assert installed.load_command("status").name == "status"
        assert installed.load_command("nothing") is None
    finally:
        installed._own_commands.cache_clear()


def test_completion_offers_commands_with_their_summaries_and_options() -> None:
    context = click.Context(main, info_name="ihsm")
    offered: list[CompletionItem] = main.shell_complete(context, "st")
    assert [(item.value, bool(item.help)) for item in offered] == [("status", True), ("store", True)]
    assert "--version" in {item.value for item in main.shell_complete(context, "--")}


def test_what_is_loaded_is_not_looked_through_for_garbage_and_later_garbage_is_found(device: EmbeddedDevice) -> None:
    program = PROGRAM.replace("*sys.modules", "gc.isenabled(), gc.get_freeze_count() > 10_000")
    words = ["info", "--device", f"vfio-user:{device.socket_path}"]
    done = subprocess.run(
        [sys.executable, "-c", f"import gc{program}", *words], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["0", "True", "True"]


STACK_PROGRAM = """
from resource import RUSAGE_SELF, getrusage
from ihsm.__main__ import with_room

def faults(depth):
    if depth:
        return faults(depth - 1)
    def leaf():
        pass
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(200):
        leaf()
    return getrusage(RUSAGE_SELF).ru_minflt - before

def main():
    print(max(faults(depth) for depth in range(400)))

with_room(main)()
"""


def test_no_call_costs_a_page_fault_however_deep_it_is() -> None:
    """Without room there are depths at which each of the calls begins a piece of the stack anew."""
    done = subprocess.run([sys.executable, "-c", STACK_PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100


def test_who_signs_and_waits_loads_no_event_loop() -> None:
    program = "import ihsm.cli.sign, ihsm.cli.encrypt, sys; from ihsm import Hsm; print('asyncio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
