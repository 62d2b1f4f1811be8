# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/mutants`: what it calls noticed, on a small project; and the project's own mutants, whole and in part."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mutation.__main__ import main
from mutation.patches import FOLDER, Mutant, PatchError, git_apply, load, missing_tests

ROOT = Path(__file__).parents[2]
NEEDED = {
    "aad-read-twice",
    "client-maps-short-file",
    "client-takes-unsigned-device-key",
    "delete-cq-order",
    "disable-waits-for-no-aes",
    "held-key-survives-deletion",
    "host-unlock-no-second-look",
    "long-aes-ignores-stop",
    "msix-write-behind-table",
    "overtaken-context-keynotfound",
    "pin-check-after-decryption-gone",
    "poller-no-kick",
    "poller-no-second-look",
    "rejected-bound-gone",
    "sqe-used-in-place",
    "stack-burn-nothing",
    "state-directory-not-fsynced",
}
"""Guarantees that no test held once."""
AT_LEAST = 40

PRODUCT = "def double(number):\n    return 2 * number\n"
TESTS = """
import pytest
from toy import double

class HangError(AssertionError):
    pass

def test_double():
    assert double(2) == 4

def test_double_waits():
    with open("turns", "a") as turns:
        turns.write("turn\\n")
    if double(2) != 4:
        raise HangError("godot: not within 30 s")

def test_of_nothing():
    assert True

@pytest.mark.skip
def test_skipped():
    assert double(2) == 4
"""
PROJECT = """
[tool.hatch.build]
dev-mode-dirs = ["src"]
[tool.pytest.ini_options]
addopts = "--import-mode=importlib"
"""


def patch(line: str, test: str = "test_double", old: str = "    return 2 * number", more: str = "") -> str:
    """A mutant that puts `line` in place of the only line of the product's function; `more` is for the header."""
    return (
        f"Mutant: Doubling is\n something else.\nNoticed-by: tests/test_toy.py::{test}\n{more}\n"
        "diff --git a/src/toy.py b/src/toy.py\n--- a/src/toy.py\n+++ b/src/toy.py\n"
        f"@@ -1,2 +1,2 @@\n def double(number):\n-{old}\n+{line}\n"
    )


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A checkout with a product of one function, its tests, and no mutants yet; nothing of it is committed."""
    root = tmp_path / "toy"
    for folder in ("src", "tests/mutants"):
        (root / folder).mkdir(parents=True)
    (root / "src/toy.py").write_text(PRODUCT)
    (root / "tests/test_toy.py").write_text(TESTS)
    (root / "pyproject.toml").write_text(PROJECT)
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


def run(root: Path, capsys: pytest.CaptureFixture[str], **mutants: str) -> tuple[int, str]:
    """Status and output for mutants by name; the product is as before in the end."""
    for name, text in mutants.items():
        (root / FOLDER / f"{name}.patch").write_text(text)
    status = main([], root, root.parent / "scratch")
    output = capsys.readouterr()
    assert (root / "src/toy.py").read_text() == PRODUCT
    assert (root.parent / "scratch/src/toy.py").read_text() == PRODUCT
    return status, output.out + output.err


def test_what_is_noticed_and_what_is_not(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only a test that judges and fails has noticed; whatever one mutant does, the others are judged."""
    status, output = run(
        toy,
        capsys,
        a_triple=patch("    return 3 * number"),
        equal=patch("    return number + number"),
        half_seen=patch("    return 3 * number", "test_double tests/test_toy.py::test_of_nothing"),
        no_name=patch("    return nobody_knows"),
        no_program=patch("    retrun 3"),
        of_another_base=patch("    return 3 * number", old="    return 4 * number"),
        z_triple=patch("    return 3 * number"),
    )
    lines = output.splitlines()[1:]
    assert status == 1
    assert lines[0] == "noticed a_triple"
    assert lines[1] == "    tests/test_toy.py::test_double: assert 6 == 4"
    assert lines[2] == "NOT NOTICED equal: tests/test_toy.py::test_double passed "
    assert lines[3] == "NOT NOTICED half_seen: tests/test_toy.py::test_of_nothing passed "
    assert lines[4].startswith("NOT NOTICED no_name: tests/test_toy.py::test_double could not judge NameError")
    assert lines[5].startswith("NOT NOTICED no_program: tests/test_toy.py::test_double could not judge")
    assert lines[6].startswith("NOT APPLIED of_another_base does not apply")
    assert lines[-3] == "noticed z_triple"
    assert lines[-1] == "7 mutants, 2 noticed"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        pytest.param("    return number + None", "TypeError", id="of type"),
        pytest.param("    return number.twice", "AttributeError", id="of attribute"),
        pytest.param("    number += late; late = 0", "UnboundLocalError", id="of an unset name"),
    ],
)
def test_a_programming_error_counts_where_the_header_says_so(
    toy: Path, capsys: pytest.CaptureFixture[str], line: str, error: str
) -> None:
    """And there nothing else does."""
    status, output = run(
        toy,
        capsys,
        a_broken=patch(line),
        said=patch(line, more=f"Fails-with: {error}\n"),
        said_in_vain=patch("    return 3 * number", more=f"Fails-with: {error}\n"),
    )
    lines = output.splitlines()[1:]
    assert status == 1
    assert lines[0].startswith(f"NOT NOTICED a_broken: tests/test_toy.py::test_double could not judge {error}: ")
    assert lines[1] == "noticed said"
    assert lines[2].startswith(f"    tests/test_toy.py::test_double: {error}: ")
    assert lines[3].startswith("NOT NOTICED said_in_vain: tests/test_toy.py::test_double could not judge assert 6")


def test_a_wait_in_vain_is_judged_at_the_second_time(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = toy.parent / "scratch/turns"
    status, output = run(toy, capsys, hangs=patch("    return 3 * number", "test_double_waits"))
    assert status == 0
    assert output.splitlines()[2].endswith("HangError: godot: not within 30 s")
    assert turns.read_text().count("turn") == 1 + 2

    turns.unlink()
    once = "    return 3 * number if len(open('turns').readlines()) == 2 else 2 * number"
    status, output = run(toy, capsys, hangs=patch(once, "test_double_waits"))
    assert status == 1
    assert "NOT NOTICED hangs: tests/test_toy.py::test_double_waits passed" in output


@pytest.mark.parametrize(
    ("test", "said"),
    [("test_no_such", "no such test: tests/test_toy.py::test_no_such"), ("test_skipped", "could not judge: skipped")],
)
def test_a_test_that_cannot_tell(toy: Path, capsys: pytest.CaptureFixture[str], test: str, said: str) -> None:
    status, output = run(toy, capsys, triple=patch("    return 3 * number", test))
    assert status == 1
    assert said in output


def test_tests_must_pass_without_a_mutant(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "tests/test_toy.py").write_text(TESTS.replace("assert True", "assert False"))
    status, output = run(toy, capsys, triple=patch("    return 3 * number", "test_of_nothing"))
    assert status == 1
    assert "must pass without a mutant: failed: assert False" in output


def test_the_copy_follows_the_checkout(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / "src/gone.py").write_text("")
    assert run(toy, capsys, triple=patch("    return 3 * number"))[0] == 0
    (toy / "src/gone.py").unlink()
    (toy / "src/new.py").write_text("")
    assert run(toy, capsys)[0] == 0
    assert [path.name for path in sorted((toy.parent / "scratch/src").glob("*.py"))] == ["new.py", "toy.py"]


def test_names_choose_and_list_shows(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (toy / FOLDER / "same.patch").write_text(patch("    return number + number"))
    (toy / FOLDER / "triple.patch").write_text(patch("    return 3 * number"))
    assert main(["triple"], toy, toy.parent / "scratch") == 0
    assert main(["other"], toy) == 1
    capsys.readouterr()
    assert main(["--list", "triple"], toy) == 0
    assert capsys.readouterr().out == "triple: Doubling is something else.\n    tests/test_toy.py::test_double\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        patch("    return 3 * number").partition("diff")[0],
        patch("    return 3 * number").replace("Mutant:", "Mutation:"),
        patch("    return 3 * number").replace("Doubling is\n something else.", ""),
        patch("    return 3 * number").replace("Noticed-by:", "Mutant:"),
        patch("    return 3 * number").replace("::test_double", ""),
        "Something else.\n" + patch("    return 3 * number"),
        patch("    return 3 * number", more="Fails-with: ImportError\n"),
        patch("    return 3 * number", more="Fails-with: TypeError\nFails-with: TypeError\n"),
    ],
)
def test_a_file_that_is_no_mutant(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.patch"
    path.write_text(text)
    with pytest.raises(PatchError, match=r"bad\.patch"):
        Mutant.read(path)


# -- the project's own -------------------------------------------------------------------------------------------------


def test_there_are_enough_mutants() -> None:
    names = {mutant.name for mutant in load(ROOT)}
    assert names >= NEEDED
    assert len(names) >= AT_LEAST


@pytest.mark.parametrize("mutant", load(ROOT), ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_its_tests_exist(mutant: Mutant) -> None:
    git_apply(ROOT, mutant, "--check")
    assert missing_tests(ROOT, mutant) == []
    assert all(not name.startswith(("tests/", "scripts/")) for name in mutant.files), "mutants break the product"


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_every_mutant_is_noticed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([], ROOT) == 0, capfd.readouterr().out
