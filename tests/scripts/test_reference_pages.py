# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Reference pages: current, complete, and refused where a public name has no docstring."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import reference_pages
from reference_pages import UndocumentedError, page

PACKAGE = '''"""The package.

    example = Thing(1)

More of it.
"""

from ihsm.bus.hiding import hiding
from ihsm.bus.things import LIMIT, Colour, Pair, Setting, Thing, View, make

__all__ = ["LIMIT", "Colour", "Pair", "Setting", "Thing", "View", "hiding", "make"]
'''
THINGS = '''"""Things."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


LIMIT = 1 << 4
"""At most so many."""


class Base:
    """Not public."""

    def shared(self, /, what: int | None = None) -> str:
        """From the base."""


class Thing(Base):
    """A thing | of some kind."""

    plain: int = 0
    known: int = 1
    """With a docstring."""

    def __init__(self, size: int, *parts: str, limit_s: float = 1.5) -> None:
        """Made whole.

        Args:
            size: in bytes.
            parts: names.

        Raises:
            ValueError: too large,
                or negative.
        """

    @property
    def size(self) -> int:
        """Bytes."""

    @operation
    def waited(self, limit_s: float) -> Procedure[str]:
        """What comes."""

    @classmethod
    def named(cls, name: str) -> "Thing":
        """One by name."""

    def _private(self) -> None: ...


class Colour(IntEnum):
    """What it looks like."""

    RED = 1
    """Like a rose."""
    BLUE = 2


class Pair(NamedTuple):
    """Two numbers."""

    first: int
    second: int = 2


@dataclass
class Setting:
    """How it is done."""

    often: int = 3
    """How often."""


class View:
    """The same, awaited."""

    waited = awaited(Thing.waited)


def make(a_rather_long_name: Thing, another_long_name: int, *, a_long_option: bool, and_more: str = "") -> Thing:
    """Make one.

    Returns:
        A thing.
    """
'''


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with a package `ihsm.bus`."""
    folder = tmp_path / "ihsm" / "bus"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text('"""Text."""\n')
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "things.py").write_text(THINGS)
    (folder / "hiding.py").write_text('def hiding() -> None:\n    """Called as its module."""\n')
    return tmp_path


@pytest.mark.parametrize("name", reference_pages.PACKAGES)
def test_pages_are_current_and_have_every_public_name(name: str) -> None:
    path = reference_pages.path_of(name)
    assert path.read_text() == page(name), "run scripts/reference"
    headings = [line.removeprefix("## ") for line in path.read_text().splitlines() if line.startswith("## ")]
    assert headings == sorted(importlib.import_module(name).__all__)


def test_a_page_says_how_everything_public_is_used(sources: Path) -> None:
    text = page("ihsm.bus", [sources])
    for part in (
        "# ihsm.bus\n\nThe package.\n\n    example = Thing(1)\n\nMore of it.\n",
        "| [`Thing`](#thing) | A thing \\| of some kind. |\n",
        "## Thing\n\n```py\nclass Thing(size: int, *parts: str, limit_s: float = 1.5)\n```\n",
        "Arguments:\n\n- `size`: in bytes.\n- `parts`: names.\n\nRaises:\n\n- `ValueError`: too large, or negative.\n",
        "| `known` | `int` | With a docstring. |\n",
        "### Thing.size\n\n```py\nsize: int\n```\n\nBytes.\n",
        "```py\n@classmethod\nnamed(name: str) -> Thing\n```\n",
        "### Thing.shared\n\n```py\nshared(what: int | None = None) -> str\n```\n\nFrom the base.\n",
        "```py\nclass Pair(first: int, second: int = 2)\n```\n",
        "### Thing.waited\n\n```py\nwaited(limit_s: float) -> str\n```\n\nWhat comes.\n",
        "### View.waited\n\n```py\nasync waited(limit_s: float) -> str\n```\n\nWhat comes.\n",
        "class Colour(IntEnum)\n```\n\nWhat it looks like.\n\n| Member | |\n|---|---|\n"
        "| `RED` | Like a rose. |\n| `BLUE` |  |\n",
        "```py\nclass Setting(often: int = 3)\n```\n\nHow it is done.\n\n| Field | Type | |\n|---|---|---|\n"
        "| `often` | `int` | How often. |\n",
        "make(\n    a_rather_long_name: Thing,\n    another_long_name: int,\n    *,\n    a_long_option: bool,\n"
        "    and_more: str = '',\n) -> Thing\n",
        "Returns:\n\n- `Thing`: A thing.\n",
        "## LIMIT\n\n```py\nLIMIT = 1 << 4\n```\n\nAt most so many.\n",
        "## hiding\n\n```py\nhiding() -> None\n```\n\nCalled as its module.\n",
    ):
        assert part in text
    assert "plain" not in text
    assert "_private" not in text


@pytest.mark.parametrize(
    ("docstring", "name"),
    [
        ('    """A thing | of some kind."""\n', "ihsm.bus.things.Thing"),
        ('        """From the base."""\n', "ihsm.bus.things.Base.shared"),
        ('        """Bytes."""\n', "ihsm.bus.things.Thing.size"),
        ('        """One by name."""\n', "ihsm.bus.things.Thing.named"),
        ('"""At most so many."""\n', "ihsm.bus.things.LIMIT"),
    ],
)
def test_a_public_name_without_docstring_is_refused(sources: Path, docstring: str, name: str) -> None:
    assert docstring in THINGS
    (sources / "ihsm/bus/things.py").write_text(
        THINGS.replace(docstring, "        ...\n" if "  " * 4 in docstring else "")
    )
    with pytest.raises(UndocumentedError, match=f"^{name} has no docstring$"):
        page("ihsm.bus", [sources])


def test_a_public_name_that_is_nowhere_is_refused(sources: Path) -> None:
    (sources / "ihsm/bus/__init__.py").write_text('"""Text."""\n\n__all__ = ["absent"]\n')
    with pytest.raises(UndocumentedError, match=r"ihsm\.bus\.absent: not in the sources"):
        page("ihsm.bus", [sources])


def test_what_is_not_current_is_named_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference_pages, "ROOT", tmp_path)
    monkeypatch.setattr(reference_pages, "PAGES", tmp_path / "reference")
    monkeypatch.setattr(reference_pages, "page", lambda name: f"{name}\n")
    monkeypatch.setattr("sys.argv", ["reference", "--check"])
    assert reference_pages.main() == 1
    assert "reference/bus.md is not what the docstrings say: run scripts/reference\n" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["reference"])
    assert reference_pages.main() == 0
    assert (tmp_path / "reference/bus.md").read_text() == "ihsm.bus\n"
    monkeypatch.setattr("sys.argv", ["reference", "--check"])
    assert reference_pages.main() == 0
