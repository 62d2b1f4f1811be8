# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""docs/security.md: every bug class has a mutant, and every mutant named there exists."""

from __future__ import annotations

import re
from pathlib import Path

from mutation.patches import load

ROOT = Path(__file__).parents[2]
HEADING = "## Bug classes of similar devices"


def test_every_class_has_mutants_that_exist() -> None:
    _, found, section = (ROOT / "docs" / "security.md").read_text().partition(HEADING)
    assert found
    rows = [line.strip("|").split(" | ") for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
    known = {mutant.name for mutant in load(ROOT)}
    classes = rows[1:]
    assert len(classes) == 20
    for bug_class, mutants in classes:
        named = re.findall(r"`([^`]+)`", mutants)
        assert named, bug_class
        assert known.issuperset(named), bug_class
