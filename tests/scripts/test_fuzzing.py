# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/fuzz`: what it says of a harness that finds something, and of one that does not; the harnesses' corpora."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzing import __main__ as fuzzing
from fuzzing.__main__ import Harness, harnesses, main, run

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "fuzz" / "corpus"
PYTHON = [harness.name for harness in harnesses().values() if not harness.is_native]
FINDS = """
import sys
prefix = next(word for word in sys.argv if word.startswith("-artifact_prefix=")).partition("=")[2]
print("#9 NEW cov: 12 ft: 3")
print("ERROR: something")
print(f"artifact_prefix='x'; Test unit written to {prefix}crash-1")
print("stat::number_of_executed_units: 99")
print("stat::average_exec_per_sec: 33")
sys.exit(77)
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs leave what they find."""
    monkeypatch.setattr(fuzzing, "WORK", tmp_path)
    monkeypatch.setattr(fuzzing, "corpus_of", lambda name: [tmp_path])
    return tmp_path


def program(text: str) -> Harness:
    """A harness that does this."""
    return Harness("toy", "a toy", (sys.executable, "-c", f"exec({text!r})"), is_native=True)


def test_a_finding_is_shown_with_its_input_and_how_to_repeat_it(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(program(FINDS), 1, {"NAME": "value"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy: 99 executions, 33 a second, coverage 12"
    assert "  | ERROR: something" in lines
    assert lines[-2] == f"FOUND toy: {work}/findings/toy-crash-1"
    assert lines[-1].startswith("  again: NAME=value ")
    assert lines[-1].endswith("toy-crash-1")


def test_the_harness_of_messages_has_what_the_library_calls_in_python() -> None:
    """It stands where Python stands in a device; without one of these functions it cannot be linked."""
    name = re.compile(r"\b(ihsm_py_\w+)\(")
    called = set(name.findall((ROOT / "vfio_device" / "native" / "vfu_callbacks.cdef.h").read_text()))
    assert called
    assert called == set(name.findall((ROOT / "fuzz" / "native" / "messages.c").read_text()))


@pytest.mark.parametrize("again", [0, 70])
def test_an_input_that_takes_long_is_a_finding_if_it_does_so_again(
    work: Path, capsys: pytest.CaptureFixture[str], again: int
) -> None:
    """A machine that stands still makes every input take long."""
    slow = FINDS.replace("crash-1", "timeout-1")
    once = f"import sys\nif not any(word.startswith('-artifact') for word in sys.argv): sys.exit({again})\n"
    assert run(program(once + slow), 1, {}) is (again == 0)
    said = capsys.readouterr().out
    assert ("FOUND" in said) is (again != 0)
    assert ("ended early" in said) is (again == 0)


def test_a_harness_that_ends_otherwise_has_failed(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(program("raise SystemExit(3)"), 1, {})
    assert f"FAILED toy: status 3, see {work}/toy.log" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("minutes", "word"), [(2, "-max_total_time=120"), (0, "-runs=0"), (0.001, "-max_total_time=1")]
)
def test_minutes_become_a_limit(work: Path, capsys: pytest.CaptureFixture[str], minutes: float, word: str) -> None:
    assert run(program(f"import sys; sys.exit({word!r} not in sys.argv)"), minutes, {})


@pytest.mark.parametrize("arguments", [[], ["-1"], ["nan"], ["soon"], ["1", "nothing"]])
def test_a_bad_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_each_harness_says_what_it_is_about_and_has_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"keys", "messages", "engine", "fast_path", "express", "dispatcher", "decoders"} <= lines.keys()
    for name in lines:
        assert any((CORPUS / name).iterdir()), name
    assert {folder.name for folder in CORPUS.iterdir()} == lines.keys()
    assert sum(file.stat().st_size for file in CORPUS.rglob("*")) < 300_000


def replayed(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A harness in Python without the fuzzer."""
    assert importlib.util.find_spec("atheris") is None
    return subprocess.run(
        [sys.executable, *words], env=os.environ | {"PYTHONPATH": ""}, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("name", PYTHON)
def test_the_corpus_finds_nothing(name: str) -> None:
    done = replayed(ROOT / "fuzz" / "python" / f"{name}.py", CORPUS / name)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(list((CORPUS / name).iterdir()))} inputs\n"


def test_an_input_that_fails_is_named(tmp_path: Path) -> None:
    """Also where the product has caught the exception and logged it."""
    script = tmp_path / "toy.py"
    script.write_text(
        f"import logging, sys\nsys.path.insert(0, {str(ROOT / 'fuzz' / 'python')!r})\n"
        "from harness import failures_are_findings, main\n"
        "def one_input(data):\n"
        "    try:\n        1 // len(data)\n"
        "    except ZeroDivisionError:\n        logging.getLogger('x').exception('failed')\n"
        "failures_are_findings()\nmain(one_input)\n"
    )
    (tmp_path / "good").write_bytes(b"1")
    (tmp_path / "empty").write_bytes(b"")
    assert replayed(script, tmp_path / "good").returncode == 0
    done = replayed(script, tmp_path / "good", tmp_path / "empty")
    assert done.returncode != 0
    assert f"{tmp_path / 'empty'}: a finding" in done.stderr


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="installing a compiler needs root")
def test_every_harness_builds_and_its_corpus_finds_nothing() -> None:
    done = subprocess.run([ROOT / "scripts" / "fuzz", "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(harnesses())} harnesses, 0 with a finding"


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="installing a compiler needs root")
@pytest.mark.parametrize("name", harnesses())
def test_a_minute_finds_nothing(name: str) -> None:
    """And finds what `scripts/mutants` puts back."""
    done = subprocess.run([ROOT / "scripts" / "fuzz", "1", name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
