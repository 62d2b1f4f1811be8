# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in a command becomes one line and an exit status; a traceback only for those who ask for it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ihsm.cli import LazyGroup, main
from ihsm.cli.last_handler import INTERRUPTED
from ihsm.errors import ControllerTimeoutError, OutputError
from support.commands import run_process
from support.process import interruptible
from support.waiting import HANG_S

FAILING = """
import os, signal, sys
from ihsm.cli import info
def fail(*arguments, **options):
    {failure}
info.open_device = fail
from ihsm.__main__ import run
sys.argv = ["ihsm", "info"]
run()
"""


def fail_with(error: BaseException, **environment: str) -> Result:
    """A command of our kind that raises."""

    @click.group(cls=LazyGroup)
    def group() -> None:
        raise error

    return CliRunner(env=environment).invoke(group, ["info"])


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (KeyError("queue"), 1, "Error: unexpected KeyError: 'queue' (test_last_handler.py:"),
        (ControllerTimeoutError("CSTS.RDY stays 0"), 5, "Error: CSTS.RDY stays 0\n"),
        (OutputError("report: No space left on device"), 2, "Error: report: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "Error: '/x': Permission denied\n"),
        (OSError("no number"), 1, "Error: unexpected OSError: no number ("),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "Error: standard output: No space left on device\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "Error: standard output: Broken pipe\n"),
        (MemoryError(), 1, "Error: out of memory\n"),
        (RecursionError("too deep"), 1, "Error: unexpected RecursionError: too deep ("),
        (click.ClickException("used wrongly"), 1, "Error: used wrongly\n"),
        (KeyboardInterrupt(), INTERRUPTED, "\n"),
        (click.Abort(), INTERRUPTED, ""),
        (SystemExit(7), 7, ""),
        (SystemExit("said so"), 1, "Error: said so\n"),
        (SystemExit(), 0, ""),
    ],
)
def test_an_exception_is_a_line_and_a_status(error: BaseException, status: int, line: str) -> None:
    result = fail_with(error)
    assert result.exit_code == status, result.output
    assert result.output.startswith(line)
    assert result.output.count("\n") <= 1


def test_who_asks_gets_the_traceback() -> None:
    result = fail_with(KeyError("queue"), IHSM_TRACEBACK="1")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.output
    assert "Traceback" not in fail_with(KeyError("queue"), IHSM_TRACEBACK="").output


def test_logging_everything_asks_for_tracebacks_as_well() -> None:
    done = run_process("--log-level", "debug", "info", "--device", "vfio-user:/none.sock")
    assert (done.returncode, done.stdout) == (3, b"")
    assert b"Traceback" in done.stderr
    assert done.stderr.endswith(b"`ihsm serve --socket /none.sock`, with its --state, starts it\n")


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        ("raise RuntimeError('wrong')", 1, "Error: unexpected RuntimeError: wrong (<string>:"),
        # Until the interpreter looks for signals, which it does between any two of its instructions.
        ("os.kill(os.getpid(), signal.SIGINT); any(iter(lambda: 0, 1))", INTERRUPTED, ""),
        ("import threading; t = threading.Thread(target=lambda: 1 / 0, name='aside'); t.start(); t.join(); sys.exit(0)",
         0, "ERROR   ihsm.cli.streams: thread aside ended: ZeroDivisionError: division by zero ("),
    ],
)  # fmt: skip
def test_a_process_ends_without_a_traceback(failure: str, status: int, text: str) -> None:
    program = FAILING.format(failure=failure)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        preexec_fn=interruptible,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == status, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_watching_ends_with_the_status_of_an_interrupt(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "ihsm", "list", "--watch"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, preexec_fn=interruptible
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == INTERRUPTED
        assert process.stderr.read().strip() == b""


def test_a_broken_installation_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('no click here')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("IHSM_TRACEBACK", None)
    done = run_process("list", env=environment)
    assert (done.returncode, done.stderr) == (1, b"Error: ihsm cannot start: ImportError: no click here\n")


def test_as_part_of_another_program_exceptions_stay_exceptions() -> None:
    with pytest.raises(click.UsageError):
        main.main(["dance"], standalone_mode=False)
