# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""docs/rules.md has the rules that there are, and what it shows is what the command prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ihsm.trace.rules import RULES, Need
from support.commands import run
from support.traces import COMMANDS

PAGE: Final = (Path(__file__).parents[2] / "docs/rules.md").read_text()


def table(above: str) -> list[list[str]]:
    """Cells of the rows of the first table below a line."""
    found = re.search(r"(?:^\|.*\n)+", PAGE.partition(f"\n{above}\n")[2], re.MULTILINE)
    assert found is not None
    rows = re.findall(r"^\| (.*) \|$", found[0], re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def test_every_rule_has_its_row() -> None:
    assert table("## The rules") == [[f"`{rule.name}`", rule.section, rule.sentence] for rule in RULES]


def test_what_it_shows_is_printed() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert run("trace", "check", COMMANDS).stdout.startswith(shown)


def test_names_of_rules_in_its_text_exist() -> None:
    named = {word for row in table("Which rule names which mistake:") for word in re.findall(r"`([a-z-]+)`", row[1])}
    assert named
    assert named <= {rule.name for rule in RULES}


def test_every_reason_not_to_decide_has_its_row() -> None:
    assert len(table("A rule that cannot be decided is not guessed at, but named:")) == len(Need)
