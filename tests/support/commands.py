# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Runs `ihsm` commands in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from ihsm.cli import main
from ihsm.embedded import EmbeddedDevice
from support.waiting import HANG_S


def run(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """Output and exit status of a command."""
    return CliRunner().invoke(main, [os.fspath(each) for each in arguments], input=stdin)


def succeed(*arguments: str | Path, stdin: bytes | None = None) -> bytes:
    """What a command that succeeds prints."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout_bytes


def refused(status: int, *arguments: str | Path, stdin: bytes | None = None) -> str:
    """The one line of a command that fails with this exit status, and prints nothing else."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == status, result.output
    assert result.stdout_bytes == b""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert "Traceback" not in result.stderr
    return line


def run_process(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A command as a process of its own; `options` are those of `subprocess.run`."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    command = [sys.executable, "-P", "-m", "ihsm", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=HANG_S, **options)


def run_json(*arguments: str | Path) -> Any:
    """What a command that succeeds prints with --json."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def uri(device: EmbeddedDevice) -> str:
    """URI of a device's first function."""
    return f"vfio-user:{device.socket_path}"
