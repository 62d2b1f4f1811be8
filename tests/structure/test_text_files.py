# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Text files are as .editorconfig says, whatever editor wrote them."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WILDCARDS = {"**": ".*", "*": "[^/]*", "{": "(?:", "}": ")", ",": "|"}


def pattern(glob: str) -> re.Pattern[str]:
    """A section's name as an expression for paths from the root; without a slash it is for names in any folder."""
    parts = (WILDCARDS.get(part, re.escape(part)) for part in re.split(r"(\*\*|[*{},])", glob))
    return re.compile(("" if "/" in glob else "(?:.*/)?") + "".join(parts))


def sections() -> list[tuple[re.Pattern[str], dict[str, str]]]:
    """What .editorconfig says, later sections over earlier ones."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string("[DEFAULT]\n" + (ROOT / ".editorconfig").read_text())
    return [(pattern(name), dict(parser[name])) for name in parser.sections()]


def faults(text: bytes, rules: dict[str, str]) -> list[str]:
    """Which of the rules a file's contents break."""
    lines = text.split(b"\n")
    found = []
    if rules["end_of_line"] == "lf" and b"\r" in text:
        found.append("end_of_line")
    if rules["insert_final_newline"] == "true" and text and not text.endswith(b"\n"):
        found.append("insert_final_newline")
    if rules["trim_trailing_whitespace"] == "true" and any(line != line.rstrip() for line in lines):
        found.append("trim_trailing_whitespace")
    if rules["indent_style"] == "space" and any(line.startswith(b"\t") for line in lines):
        found.append("indent_style")
    try:
        text.decode(rules["charset"])
    except UnicodeDecodeError:
        found.append("charset")
    return found


def test_every_file_keeps_the_rules() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert names
    broken = {}
    for name in names:
        rules: dict[str, str] = {}
        for glob, section in sections():
            if glob.fullmatch(name):
                rules |= section
        if found := faults((ROOT / name).read_bytes(), rules):
            broken[name] = found
    assert broken == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"a\r\n", "end_of_line"),
        (b"a", "insert_final_newline"),
        (b"a \n", "trim_trailing_whitespace"),
        (b"\ta\n", "indent_style"),
        (b"\xff\n", "charset"),
    ],
)
def test_each_rule_is_looked_at(text: bytes, fault: str) -> None:
    rules = sections()[0][1]
    assert fault in faults(text, rules)
    assert faults(b"  a\n\nb\n", rules) == []


def test_sections_are_for_names_in_any_folder_or_for_paths() -> None:
    assert pattern("*.{py,c}").fullmatch("a/b.c")
    assert not pattern("*.{py,c}").fullmatch("a/b.h")
    assert pattern("{a,b/c}/**").fullmatch("b/c/d/e")
    assert not pattern("{a,b/c}/**").fullmatch("x/a/d")
