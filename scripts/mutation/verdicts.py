# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whether tests pass, fail, or could not judge, in a scratch tree."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from mutation.patches import PROGRAMMING_ERRORS
from mutation.scratch import ScratchTree

HANG_S: Final = 30
"""How long the tests of a mutant wait for what never comes; many mutants make something hang."""
TIMEOUT_S: Final = 600
_NO_PROGRAM: Final = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError", "NameError")
_NOT_THE_POINT: Final = frozenset(_NO_PROGRAM + PROGRAMMING_ERRORS)
"""Errors of a change that leaves no working program. A test that fails with one has noticed nothing."""
_ERROR_NAME: Final = re.compile(r"(?:\w+\.)*(\w+)(?::|$)")


class Outcome(Enum):
    """What a test says."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "could not judge"


@dataclass(frozen=True)
class Verdict:
    """Of one run of pytest."""

    outcome: Outcome
    detail: str
    """First line of a failure or error; what pytest said when it gave no report."""


def judge(tree: ScratchTree, tests: Sequence[str], fails_with: str | None = None) -> Verdict:
    """Run tests, long ones too, with the code of the tree, up to the first that does not pass.

    FAILED takes an assertion or an exception in a test itself. An error of collection, of a fixture, of an import, a
    programming error, or the end of pytest without a report is ERROR: it says that the change made no program that
    could be judged. With `fails_with`, that programming error and no other failure is FAILED.

    A test that waited in vain is run once more, since HANG_S is short for a machine that has other things to do.
    """
    verdict = _run(tree, tests, fails_with)
    if verdict.outcome is not Outcome.PASSED and _error_name(verdict.detail) == "HangError":
        verdict = _run(tree, tests, fails_with)
    return verdict


def _run(tree: ScratchTree, tests: Sequence[str], fails_with: str | None) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="ihsm-mutant-") as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-x", "-m", "", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_S}", f"--junitxml={report}"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=tree.place,
            env=tree.environment | {"IHSM_TEST_HANG_S": str(HANG_S)},
            capture_output=True,
            text=True,
        )
        if not report.exists():
            return Verdict(Outcome.ERROR, _last_line(done.stdout + done.stderr) or f"status {done.returncode}")
        return _verdict(ElementTree.parse(report).getroot(), done.returncode, fails_with)


def _verdict(report: ElementTree.Element, status: int, fails_with: str | None) -> Verdict:
    failures = [_message(failure) for failure in report.iter("failure")]
    if telling := [message for message in failures if _is_telling(_error_name(message), fails_with)]:
        return Verdict(Outcome.FAILED, telling[0])
    problems = failures + [_message(error) for error in report.iter("error")]
    if problems or status not in (0, 1):
        return Verdict(Outcome.ERROR, problems[0] if problems else f"pytest ended with status {status}")
    if all(case.find("skipped") is not None for case in report.iter("testcase")):
        return Verdict(Outcome.ERROR, "skipped")
    return Verdict(Outcome.PASSED, "")


def _is_telling(error: str, fails_with: str | None) -> bool:
    return error == fails_with if fails_with else error not in _NOT_THE_POINT


def _error_name(message: str) -> str:
    """Class of the exception that pytest's message starts with, without its module; empty for a bare assertion."""
    match = _ERROR_NAME.match(message)
    return match[1] if match else ""


def _message(element: ElementTree.Element) -> str:
    """First line; that of the other process where a test ran in one and its fault was handed on by `pytest.fail`."""
    return (element.get("message") or "").strip().partition("\n")[0].removeprefix("Failed: ")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
