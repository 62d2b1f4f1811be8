# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the pages at the root and in docs say holds: links resolve, commands and options exist, examples run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from ihsm.cli import main
from ihsm.embedded import EmbeddedDevice

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")
HEADING: Final = re.compile(r"^#+ (.*)$", re.MULTILINE)
GROUP_OPTIONS: Final = {option for parameter in main.params for option in parameter.opts} | {"--help"}
LIBRARIES: Final = ROOT / "docs/libraries.md"
"""Its examples need the libraries that it is about: `tests/libraries` runs them, with `scripts/test-libraries`."""
CHEAP: Final = (["ihsm", "--help"], ["ihsm", "--version"], ["ihsm", "list"], ["ihsm", "qemu-args"], ["ihsm", "info"])
"""First words of console lines that end within seconds and change nothing."""
STORED: Final = ("README.md",)
"""Pages whose programs take a store that is there already."""


def blocks(page: Path, language: str) -> list[str]:
    """Contents of a page's fenced blocks in a language."""
    return [body for tag, body in FENCE.findall(page.read_text()) if tag == language]


def anchors(page: Path) -> set[str]:
    """What can follow # in a link to a page: its headings as the hosting site writes them."""
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def console_lines() -> Iterator[tuple[str, str]]:
    """Each command line that a page shows, with the page's name."""
    for page in PAGES:
        for body in blocks(page, "console"):
            for line in re.findall(r"^\$ (.*)$", body, re.MULTILINE):
                yield page.name, re.sub(r"\s+#.*", "", line)


def apart(folder: Path) -> dict[str, str]:
    """An environment in which devices and stores are in `folder`, not those of whoever runs the tests."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("IHSM_")}
    return mine | {
        "XDG_RUNTIME_DIR": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }


def commands() -> dict[str, click.Command]:
    """All sub-commands by name."""
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def options_of(command: click.Command) -> set[str]:
    """All long options of a sub-command, and of the commands that it groups."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
    found = {name for name in names if name.startswith("--")} | {"--help"}
    return found.union(*map(options_of, command.commands.values())) if isinstance(command, click.Group) else found


def shown_uses() -> list[tuple[str, str, str]]:
    """(page, command, rest) of everything written as `ihsm COMMAND ...`, inline or on a console line."""
    uses = []
    for page in PAGES:
        text = page.read_text()
        inline = re.findall(r"`(ihsm [^`\n]*)`", text)
        for line in [*inline, *(line for name, line in console_lines() if name == page.name)]:
            match = re.match(r"ihsm(?: --log-\w+ \w+)* ([a-z][a-z-]*)(.*)", line)
            if match:
                # what stands in quotes is for the guest or the device, what stands behind -- another program's
                uses.append((page.name, match[1], re.sub(r"'[^']*'| -- .*", "", match[2])))
    return uses


@pytest.mark.parametrize(
    ("page", "target"), [(page, target) for page in PAGES for target in LINK.findall(page.read_text())]
)
def test_links_lead_somewhere(page: Path, target: tuple[str, str]) -> None:
    name, anchor = target
    if not name.startswith("https://"):
        linked = page.parent / name if name else page
        assert linked.exists()
        assert not anchor or anchor in anchors(linked)


def test_every_command_has_its_section() -> None:
    sections = re.findall(r"^## ihsm ([a-z-]+)$", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    assert sections == sorted(commands())


def test_every_option_is_described_and_exists() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    sections = re.split(r"^## ihsm ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        name = section.split()[0]
        described = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", section))
        assert described - GROUP_OPTIONS == options_of(commands()[name]) - GROUP_OPTIONS, name


@pytest.mark.parametrize(("page", "name", "rest"), shown_uses())
def test_shown_commands_and_options_exist(page: str, name: str, rest: str) -> None:
    assert name in commands()
    for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest):
        assert option in options_of(commands()[name]), f"{page}: {option}"


@pytest.mark.parametrize(("page", "line"), list(console_lines()))
def test_shown_programs_exist(page: str, line: str) -> None:
    for word in line.split():
        if word.startswith(("scripts/", "docs/", "tests/")):
            assert (ROOT / word).exists(), page


@pytest.mark.parametrize("line", sorted({line for _, line in console_lines() if line.split()[:2] in CHEAP}))
def test_cheap_commands_run(line: str, tmp_path: Path) -> None:
    done = subprocess.run(line, shell=True, env=apart(tmp_path), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--json" in line:
        json.loads(done.stdout)


def test_the_commands_in_hsm_commands_run_one_after_the_other(tmp_path: Path) -> None:
    for body in blocks(ROOT / "docs/hsm-commands.md", "console"):
        for line in re.findall(r"^\$ ihsm (.*)$", body, re.MULTILINE):
            command = [sys.executable, "-m", "ihsm", *line.split()]
            done = subprocess.run(command, cwd=tmp_path, env=apart(tmp_path), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr


def test_the_commands_that_attest_run_one_after_the_other(tmp_path: Path) -> None:
    """The one that needs a guest is among the guest's tests."""
    with EmbeddedDevice() as device:
        environment = apart(tmp_path) | {"IHSM_DEVICE": f"vfio-user:{device.socket_path}"}
        for body in blocks(ROOT / "docs/attestation.md", "console"):
            for line in re.findall(r"^\$ (ihsm (?:attest|info) .*)$", body, re.MULTILINE):
                done = subprocess.run(line, shell=True, env=environment, cwd=tmp_path, capture_output=True, text=True)
                assert done.returncode == 0, f"{line}: {done.stderr}"
        assert "root          ok" in done.stdout


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/getting-started.md"], ids=lambda page: page.name)
def test_the_shell_lines_that_make_a_key_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    (block,) = [body for body in blocks(page, "console") if re.search(r"^\$ ihsm init\b", body, re.MULTILINE)]
    (tmp_path / "FILE").write_bytes(b"to sign\n")
    shown = re.sub(r"^\$ .*\n", "", block, flags=re.MULTILINE)
    for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        done = subprocess.run(line, shell=True, env=apart(tmp_path), cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert done.stdout.endswith(shown)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page != LIBRARIES], ids=lambda page: page.name
)
def test_python_examples_run(page: Path, tmp_path: Path) -> None:
    """All of a page's examples in one program; blank lines keep the page's line numbers in tracebacks."""
    text = page.read_text()
    program = ""
    for match in FENCE.finditer(text):
        if match[1] == "python":
            line = text.count("\n", 0, match.start(2))
            program += "\n" * (line - program.count("\n")) + match[2]
    if page.name in STORED:
        subprocess.run(["ihsm", "init"], env=apart(tmp_path), check=True)
    done = subprocess.run([sys.executable, "-c", program], env=apart(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, f"{page.name}: {done.stderr}"
