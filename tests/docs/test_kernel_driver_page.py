# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""docs/kernel-driver.md says what the model of the driver is: its code, its tables, and what a debugger shows."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from ihsm_kmod.hsm.quirks import QUIRKS, Quirk
from ihsm_kmod.kernel.reports import Report, ReportKind

ROOT: Final = Path(__file__).parents[2]
MODEL: Final = ROOT / "kmod_sim" / "ihsm_kmod"
EXAMPLE: Final = ROOT / "docs" / "examples" / "one_ioctl.py"
PAGE: Final = (ROOT / "docs" / "kernel-driver.md").read_text()
LEFT_OUT: Final = re.compile(r"^ *\.\.\.\n", re.MULTILINE)
FRAME: Final = re.compile(r"(/\S+\.py)\(\d+\)([\w<>]+)\(\)")


def blocks(language: str, text: str = PAGE) -> list[str]:
    """Contents of the fenced blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(heading: str) -> str:
    """What stands under a heading."""
    found = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert found, f"no section {heading}"
    return found


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the last table under a heading, but for its first line."""
    rows = re.findall(r"^\| (.*) \|$", section(heading).rpartition("\n|---")[2], re.MULTILINE)
    return [row.split(" | ") for row in rows]


def names(cell: str) -> list[str]:
    """What a cell has in code."""
    return re.findall(r"`([^`]+)`", cell)


def find(piece: list[str], source: list[str], start: int) -> int | None:
    """Where the lines are in the source, indented in any way; the line behind them."""
    for at in range(start, len(source) - len(piece) + 1):
        if dedent("\n".join(source[at : at + len(piece)])).split("\n") == piece:
            return at + len(piece)
    return None


def test_the_first_program_is_the_example() -> None:
    assert EXAMPLE.read_text().partition('"""\n\n')[2] == blocks("python")[0]


@pytest.mark.parametrize("block", blocks("py"), ids=lambda block: block.split()[1])
def test_what_is_quoted_is_in_the_source(block: str) -> None:
    head, _, body = block.partition("\n")
    source = (MODEL / head.removeprefix("# ")).read_text().splitlines()
    end: int | None = 0
    for piece in LEFT_OUT.split(body):
        assert end is not None
        end = find(dedent(piece).rstrip("\n").split("\n"), source, end)
        assert end is not None, f"{head}: not in the source, or not in this order:\n{piece}"


@pytest.fixture(scope="module")
def typed() -> list[str]:
    """What the page has of a session of pdb: the command, what is typed, what is printed."""
    (block,) = blocks("console", section("Step through it"))
    return block.splitlines()


@pytest.fixture(scope="module")
def printed(typed: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that pdb prints when this is typed, until the program has ended."""
    command = typed[0].removeprefix("$ python ").split()
    lines = [line.removeprefix("(Pdb) ") for line in typed if line.startswith("(Pdb) ")]
    done = subprocess.run(
        [sys.executable, *command],
        input="\n".join([*lines, "clear 1", "continue", "quit", ""]),
        cwd=ROOT,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("pdb"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "GetApiRevResp" in done.stdout, "the program did not go on"
    return done.stdout


def test_pdb_prints_what_is_shown(typed: list[str], printed: str) -> None:
    shown = [line for line in typed if not line.startswith(("$ ", "(Pdb) "))]
    assert shown
    for line in shown:
        assert line in printed


def test_pdb_shows_the_frames_of_the_table(printed: str) -> None:
    """From the program's own to that in which the doorbell is written."""
    frames = FRAME.findall(printed[printed.index("('DOORBELLS'") :])
    below = itertools.dropwhile(lambda frame: frame[0] != str(EXAMPLE), frames)
    next(below)
    model: Iterator[tuple[str, str]] = itertools.takewhile(lambda frame: frame[0].startswith(f"{MODEL}/"), below)
    rows = [[*names(function), *names(file)] for function, file, _ in table("Step through it")]
    assert [[function, str(Path(file).relative_to(MODEL))] for file, function in model] == rows


def row(quirk: Quirk) -> list[str]:
    """A quirk as the page has it."""
    return [f"`{quirk.name}`", quirk.section, str(quirk.kind), "on" if quirk.default else "off", quirk.text]


def test_every_quirk_has_its_row() -> None:
    assert table("Quirks") == [row(quirk) for quirk in QUIRKS]


def test_every_kind_of_report_has_its_row() -> None:
    assert [row[:2] for row in table("What the kernel checks")] == [[f"`{kind.name}`", kind] for kind in ReportKind]


def test_a_report_looks_as_the_page_shows_it() -> None:
    text = "with SpinLock my_lock held since driver.py:36"
    report = Report(ReportKind.SLEEP_IN_ATOMIC, text, "driver.py:37", "app/9")
    assert blocks("text", section("What the kernel checks")) == [f"WARNING: {report}\n"]


@pytest.mark.parametrize(
    ("heading", "folder"), [("Files of the driver", "hsm"), ("Files of the small kernel", "kernel")]
)
def test_every_file_has_its_row(heading: str, folder: str) -> None:
    shown = [file for cell, *_ in table(heading) for file in names(cell)]
    assert sorted(shown) == sorted(path.name for path in (MODEL / folder).glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize(("file", "shown"), [(row[0].strip("`"), row[-1]) for row in table("Files of the driver")])
def test_a_file_of_the_driver_has_the_sections_that_it_names(file: str, shown: str) -> None:
    docstring = " ".join((MODEL / "hsm" / file).read_text().split('"""')[1].split()).lower()
    if shown == "–":
        assert "spec 0" not in docstring
    else:
        assert f"spec {shown}".lower() in docstring


def test_the_header_for_c_is_made_and_compiles(tmp_path: Path) -> None:
    (line,) = re.findall(r"^\$ python (.*)$", section("Programs in C"), re.MULTILINE)
    subprocess.run([sys.executable, *line.split()], cwd=tmp_path, check=True)
    (program,) = blocks("c")
    (tmp_path / "program.c").write_text(program)
    subprocess.run(["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-c", "program.c"], cwd=tmp_path, check=True)
