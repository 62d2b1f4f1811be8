# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/api.md say what the code says: kinds and usages, exceptions and their bases."""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cryptography.exceptions
import pytest

from ihsm import errors
from ihsm.api import errors as api_errors
from ihsm.api.kinds import KINDS
from ihsm.errors import IhsmError, StoreError

PAGE: Final = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
CODE: Final = re.compile(r"`([^`]+)`")


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table whose first line starts with `heading`."""
    body = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert body is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body[1].splitlines()]


def documented() -> Iterator[tuple[str, set[str]]]:
    """Exceptions with the further bases that the page says they have."""
    for names, bases, *_ in table("Exception"):
        for name in CODE.findall(names):
            yield name, set(CODE.findall(bases))


def exception_of(name: str) -> type[BaseException]:
    """The class of a name, of whichever module has it."""
    for module in (api_errors, errors, cryptography.exceptions, builtins):
        found = getattr(module, name, None)
        if found is not None:
            assert issubclass(found, BaseException)
            return found
    raise AssertionError(f"no exception is called {name}")


def defined(module: object, base: type) -> set[str]:
    """Names of the subclasses of `base` that a module defines."""
    return {
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, base) and value is not base
        if value.__module__ == getattr(module, "__name__", None)
    }


def test_every_kind_has_its_usages() -> None:
    shown = {kind: CODE.findall(usages) for kinds, _, usages in table("Kind") for kind in CODE.findall(kinds)}
    assert shown == {name: [str(usage) for usage in kind.usages] for name, kind in KINDS.items()}


@pytest.mark.parametrize(("name", "bases"), list(documented()), ids=lambda value: value if type(value) is str else "")
def test_an_exception_has_the_bases_that_the_page_names_and_no_other(name: str, bases: set[str]) -> None:
    found = exception_of(name)
    assert issubclass(found, IhsmError)
    foreign = [base for base in found.__mro__ if not base.__module__.startswith("ihsm")]
    further = {
        base.__name__
        for base in foreign
        if base not in (Exception, BaseException, object)
        # of KeyError and LookupError, OSError and FileExistsError the nearer one is named
        if not any(base in other.__mro__[1:] for other in foreign)
    }
    assert further == bases


def test_every_exception_of_api_and_store_is_on_the_page() -> None:
    shown = {name for name, _ in documented()}
    assert defined(api_errors, IhsmError) | defined(errors, StoreError) <= shown


def test_what_is_said_to_be_raised_exists() -> None:
    for name in re.findall(r"`(\w+Error)`", PAGE):
        exception_of(name)
