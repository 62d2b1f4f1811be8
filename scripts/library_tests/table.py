# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/libraries.md: which version of each library was tried last."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bootstrap.layout import CHECKOUT

PAGE: Final = CHECKOUT / "docs/libraries.md"
_ROW: Final = re.compile(r"^\| ([A-Za-z][\w.-]*)([^|]*)\| (\d[\w.]*) \|", re.MULTILINE)
"""A row that begins with a library, perhaps with more about it, and its version."""


def canonical(name: str) -> str:
    """A package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def recorded(text: str) -> dict[str, str]:
    """The versions in a page, by canonical names."""
    return {canonical(name): version for name, _, version in _ROW.findall(text)}


def with_versions(text: str, versions: Mapping[str, str]) -> str:
    """The page with other versions.

    Raises:
        ValueError: it has no row for one of them.
    """
    wanted = {canonical(name): version for name, version in versions.items()}
    if absent := wanted.keys() - recorded(text).keys():
        raise ValueError(f"no row for {', '.join(sorted(absent))}")

    def row(match: re.Match[str]) -> str:
        version = wanted.get(canonical(match[1]), match[3])
        return f"| {match[1]}{match[2]}| {version} |"

    return _ROW.sub(row, text)
