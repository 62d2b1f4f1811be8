# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Written pages: what is missing, changed or too much is told, and put right."""

from __future__ import annotations

from pathlib import Path

import pytest

from written_pages import write


def test_what_is_missing_changed_or_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "docs/pages"
    folder.mkdir(parents=True)
    wanted = {folder / name: f"{name}\n" for name in ("missing", "changed", "current")}
    (folder / "changed").write_text("old\n")
    (folder / "current").write_text("current\n")
    (folder / "surplus").touch()

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["pages", *arguments])
        return write(wanted, folder, tmp_path, source="sources", script="scripts/pages")

    assert run("--check") == 1
    assert capsys.readouterr().out.splitlines() == [
        f"docs/pages/{name} is not what the sources say: run scripts/pages"
        for name in ("missing", "changed", "surplus")
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["changed", "current", "surplus"]
    assert run() == 0
    assert {path: path.read_text() for path in folder.iterdir()} == wanted
    assert run("--check") == 0
