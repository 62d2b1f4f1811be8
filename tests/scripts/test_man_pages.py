# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Manual pages: current, complete, without a warning of groff, and they show what the help texts say."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

import man_pages
from ihsm.cli import main as ihsm

PAGES = man_pages.pages()
GROFF = shutil.which("groff")
needs_groff = pytest.mark.skipif(GROFF is None, reason="no groff here")


def shown(markup: str, *options: str) -> str:
    """A page as a terminal of many columns shows it, without bold; groff may not warn."""
    command = ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-rLL=2000n", "-P-c", "-P-b", "-P-u", *options]
    done = subprocess.run(command, input=markup, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_current(path: Path) -> None:
    assert path.read_text() == PAGES[path], "run scripts/man-pages"


def test_every_command_has_a_page_and_no_other() -> None:
    context = click.Context(ihsm)
    names = {f"ihsm-{name}.1" for name in ihsm.list_commands(context)}
    assert {path.name for path in PAGES} == names | {"ihsm.1"} == {path.name for path in man_pages.PAGES.iterdir()}


def test_every_option_and_sub_command_is_in_the_page() -> None:
    def plain(name: str) -> str:
        return re.sub(r"\\f[BR]|\\", "", PAGES[man_pages.PAGES / name])

    key = plain("ihsm-key.1")
    for word in (
        "ihsm key generate [OPTIONS] LABEL",
        "ihsm key attest",
        "--report-data HEX",
        "--password-file",
        "--yes",
    ):
        assert word in key
    sign = plain("ihsm-sign.1")
    for word in ("--prehashed", "-o, --output FILE", "--pin-fd N", "openssl dgst"):
        assert word in sign


@needs_groff
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.parametrize("columns", [60, 80, 132])
def test_groff_has_nothing_to_say(path: Path, columns: int) -> None:
    text = shown(PAGES[path], f"-rLL={columns}n")
    assert text.split()[0] == f"{path.stem.upper()}(1)"


@needs_groff
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_name_section_is_as_whatis_wants_it(path: Path) -> None:
    section = shown(PAGES[path]).split("\nSYNOPSIS\n")[0].split("\nNAME\n")[1].strip()
    assert re.fullmatch(rf"{path.stem} - \S.*[^.:;]", section)


@needs_groff
@pytest.mark.parametrize(
    "text",
    [
        ".starts with a dot",
        "'quoted' and \"so\"",
        "a\\b \\fBno markup\\fR",
        "--option-name ~/.x ^y `z`",
        "a|b|c",
        "Zürich …",
    ],
)
def test_text_is_shown_as_it_is(text: str) -> None:
    markup = f'.TH X 1 "" x y\n.SH DESCRIPTION\n{man_pages.escape(text)}\n'
    assert shown(markup).split("\nDESCRIPTION\n")[1].split("\n")[0].strip() == text


def test_pages_that_are_not_current_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "man"
    monkeypatch.setattr(man_pages, "ROOT", tmp_path)
    monkeypatch.setattr(man_pages, "PAGES", folder)
    monkeypatch.setattr("sys.argv", ["man-pages", "--check"])
    assert man_pages.main() == 1
    assert "man/ihsm-sign.1 is not what the commands say: run scripts/man-pages\n" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["man-pages"])
    assert man_pages.main() == 0
    (folder / "ihsm-gone.1").touch()
    monkeypatch.setattr("sys.argv", ["man-pages", "--check"])
    assert man_pages.main() == 1
    monkeypatch.setattr("sys.argv", ["man-pages"])
    assert man_pages.main() == 0
    assert not (folder / "ihsm-gone.1").exists()
    monkeypatch.setattr("sys.argv", ["man-pages", "--check"])
    assert man_pages.main() == 0


def test_the_wheel_takes_them() -> None:
    """tests/scripts/test_packaging.py builds one; it takes minutes."""
    project = tomllib.loads((man_pages.ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {"docs/man": "share/man/man1"}
