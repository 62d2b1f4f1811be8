# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the page of faults: what is not current is told, and put right between its marks alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import fault_tables
from ihsm_abi.fault_table import ACTIONS


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the page, for the script to work on."""
    copy = tmp_path / "faults.md"
    copy.write_text(fault_tables.PAGE.read_text())
    monkeypatch.setattr(fault_tables, "PAGE", copy)
    monkeypatch.setattr(fault_tables, "ROOT", tmp_path)
    return copy


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["fault-table", *arguments])
    return fault_tables.main()


def test_a_page_that_is_not_current(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    current = page.read_text()
    assert run(monkeypatch, "--check") == 0
    stale = current.replace("| `never` |", "| `ever` |").replace("# Faults", "# Of faults")
    page.write_text(stale)
    assert run(monkeypatch, "--check") == 1
    assert capsys.readouterr().out == "faults.md is not what the declarations say: run scripts/fault-table\n"
    assert page.read_text() == stale
    assert run(monkeypatch) == 0
    assert page.read_text() == current.replace("# Faults", "# Of faults")


def test_a_page_without_its_marks_is_left_alone(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page.read_text().replace(fault_tables.END.format("start"), "")
    page.write_text(text)
    with pytest.raises(SystemExit, match="End of table start"):
        run(monkeypatch)
    assert page.read_text() == text


def test_each_action_is_in_one_table() -> None:
    tables = fault_tables.tables()
    for action, spec in ACTIONS.items():
        places = [name for name, text in tables.items() if f"| `{action}` |" in text]
        assert places == ["start" if spec.at_start_only else "actions"]
