# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The laboratory's way from a driver that hangs to the rule that says why, command by command as the page shows it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from docs.test_pages import apart, blocks
from support.waiting import until

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/laboratory.md"


def steps(block: str) -> list[tuple[str, str]]:
    """Each command of a console block, with the output that is shown."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    commands = [re.sub(r"\s+#.*", "", line) for line in parts[::2]]
    return list(zip(commands, parts[1::2], strict=True))


def shape(text: str) -> list[str]:
    """Lines without what differs from run to run: numbers and their width; the command id, which is not shown if 0."""
    lines = re.sub(r" cid=[0-9]+", "", text).splitlines()
    return [" ".join(re.sub(r"0x[0-9a-f]+|[0-9]+", "#", line).split()) for line in lines]


class Shell:
    """Somebody at a terminal, with nobody else's devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = apart(folder)
        self.running: list[subprocess.Popen[str]] = []
        (folder / "docs").symlink_to(ROOT / "docs")

    def start(self, line: str) -> subprocess.Popen[str]:
        """A command that goes on; it gets no Ctrl-C that is not meant for it."""
        words = line.removesuffix("&").split()
        words[0] = sys.executable if words[0] == "python" else str(Path(sys.executable).parent / words[0])
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.running.append(process)
        return process

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            line, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def record(self, line: str) -> subprocess.Popen[str]:
        """Begin a recording; it has begun when a mark arrives."""
        process = self.start(line)
        until(lambda: self.run("ihsm trace mark begin").returncode == 0, "a recording")
        return process

    def serve(self, line: str, shown: str) -> None:
        """Begin to serve a device."""
        process = self.start(line)
        assert process.stdout is not None
        served = re.sub(r"(?<=:)/.*(?=/ihsm/)", "/run/user/1000", process.stdout.readline())
        assert served == shown

    def close(self) -> None:
        """End what is left."""
        for process in reversed(self.running):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def shell(socket_folder: Path) -> Iterator[Shell]:
    found = Shell(socket_folder)
    yield found
    found.close()


def console(page: Path) -> list[list[tuple[str, str]]]:
    """The commands of a page, block by block."""
    return [steps(block) for block in blocks(page, "console")]


def test_five_commands_lead_from_a_driver_that_hangs_to_the_rule_that_says_why(shell: Shell) -> None:
    serve, fault, record, driver, check = console(PAGE)[0]  # five of them
    shell.serve(*serve)
    assert shell.run(fault[0]).stdout == fault[1]
    shell.record(record[0])

    process = shell.start(driver[0])
    until(lambda: shell.run("ihsm fault wait 1").returncode == 0, "the fault")

    # Somebody waits for seconds, in which the driver might do something: until it is clear that it does not.
    def is_clear() -> bool:
        assert shell.run("ihsm trace mark 'still there'").returncode == 0
        return shell.run(check[0]).returncode == 1

    until(is_clear, "a breach")
    assert process.poll() is None  # it hangs
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert out + "^C\n" == driver[1]

    done = shell.run(check[0])
    assert done.returncode == 1
    assert "timeout-recovers (01 §8.1" in done.stdout
    assert shape(done.stdout) == shape(check[1])


@pytest.mark.long
def test_the_repaired_driver_breaks_no_rule(shell: Shell) -> None:
    (serve, *_), _, (clear, fault, record, driver, check), *_ = console(PAGE)
    shell.serve(*serve)
    assert shell.run("ihsm fault add set-cfs --nth 1000").returncode == 0
    assert shell.run(clear[0]).returncode == 0
    assert shell.run(fault[0]).returncode == 0
    recording = shell.record(record[0])
    assert shell.run(driver[0]).stdout == driver[1]
    recording.send_signal(signal.SIGINT)
    recording.wait()
    done = shell.run(check[0])
    assert (done.returncode, shape(done.stdout)) == (0, shape(check[1]))


def test_a_command_id_of_0_is_as_good_as_any_other() -> None:
    assert shape("  7  slot=1 cid=6 at=0x1f") == shape(" 12  slot=1 at=0x20")


def test_the_mistake_is_one_line() -> None:
    source = (ROOT / "docs/examples/hanging_driver.py").read_text()
    assert source.count("wait_for_completion(command.done)") == 1
    assert os.fspath(PAGE.relative_to(ROOT)) in source
