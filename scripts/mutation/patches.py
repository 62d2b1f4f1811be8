# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Mutants as files: a header that says what is broken and which tests notice, then a diff as git makes it.

    Mutant: One sentence.
    Noticed-by: tests/path/test_file.py::test_name

Several tests are separated by blanks or stand on lines of their own; each of them must fail. Where they notice by
an error that elsewhere says that the patch itself is broken (PROGRAMMING_ERRORS), a third field says so:

    Fails-with: TypeError
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path("tests") / "mutants"
SUFFIX: Final = ".patch"
_DIFF: Final = re.compile(r"^diff --git a/(\S+) b/(\S+)$", re.MULTILINE)
_FIELD: Final = re.compile(r"^(Mutant|Noticed-by|Fails-with):", re.MULTILINE)
PROGRAMMING_ERRORS: Final = ("AttributeError", "TypeError", "UnboundLocalError")
"""What a careless patch raises, and now and then a good one."""


class PatchError(Exception):
    """A mutant that is not one; the text says why."""


@dataclass(frozen=True)
class Mutant:
    """One change of the product."""

    name: str
    path: Path
    sentence: str
    """What is broken."""
    tests: tuple[str, ...]
    """Node ids of the tests that notice, relative to the checkout."""
    fails_with: str | None
    """The programming error by which they notice; None where none of these counts."""
    files: tuple[str, ...]
    """What the diff touches, relative to the checkout."""

    @classmethod
    def read(cls, path: Path) -> Mutant:
        """Parse a file.

        Raises:
            PatchError: a field of the header or the diff is missing or malformed.
        """
        text = path.read_text()
        first = _DIFF.search(text)
        if first is None:
            raise PatchError(f"{path}: no diff as git makes it")
        fields = _fields(path, text[: first.start()])
        tests = tuple(fields["Noticed-by"].split())
        for test in tests:
            if not re.fullmatch(r"tests/\S+\.py(::\S+)+", test):
                raise PatchError(f"{path}: {test} is no test, such as tests/test_file.py::test_name")
        fails_with = fields.get("Fails-with")
        if fails_with not in (None, *PROGRAMMING_ERRORS):
            raise PatchError(f"{path}: Fails-with: must be one of {', '.join(PROGRAMMING_ERRORS)}")
        files = [name for pair in _DIFF.findall(text) for name in pair]
        sentence = " ".join(fields["Mutant"].split())
        return cls(path.stem, path, sentence, tests, fails_with, tuple(dict.fromkeys(files)))


def _fields(path: Path, header: str) -> dict[str, str]:
    """Mutant, Noticed-by and perhaps Fails-with, each once and not empty."""
    parts = _FIELD.split(header)
    names, texts = parts[1::2], [text.strip() for text in parts[2::2]]
    required = sorted(name for name in names if name != "Fails-with")
    once = len(set(names)) == len(names)
    if parts[0].strip() or required != ["Mutant", "Noticed-by"] or not once or not all(texts):
        raise PatchError(f"{path}: the header must be Mutant:, Noticed-by: and perhaps Fails-with:, once each")
    return dict(zip(names, texts, strict=True))


def load(root: Path) -> list[Mutant]:
    """All mutants of a checkout, by name; raises PatchError."""
    return [Mutant.read(path) for path in sorted((root / FOLDER).glob(f"*{SUFFIX}"))]


def chosen(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Those of the given names, all if none are given; raises PatchError for a name that there is not."""
    known = {mutant.name: mutant for mutant in mutants}
    if unknown := [name for name in names if name not in known]:
        raise PatchError(f"no such mutant: {', '.join(unknown)} (scripts/mutants --list shows all)")
    return [known[name] for name in dict.fromkeys(names)] if names else list(mutants)


def git_apply(tree: Path, mutant: Mutant, *options: str) -> None:
    """`git apply` in a folder that need not be a repository; raises PatchError with what git says."""
    # Inside some other repository git would pass over files that are not in it.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent), "LC_ALL": "C"}
    done = subprocess.run(
        ["git", "apply", *options, str(mutant.path)], cwd=tree, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise PatchError(f"{mutant.name} does not apply: {done.stderr.strip()}")


def missing_tests(root: Path, mutant: Mutant) -> list[str]:
    """Tests that a mutant names and that do not exist."""
    return [test for test in mutant.tests if not _exists(root, test)]


def _exists(root: Path, test: str) -> bool:
    name, *inner = test.split("::")
    path = root / name
    if not path.is_file():
        return False
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in inner:
        found = next(_named(body, part.partition("[")[0]), None)
        if found is None:
            return False
        body = found.body
    return True


def _named(body: list[ast.stmt], name: str) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    return (node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
