# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""gdb at a guest, by the line that is printed: it stops in a module under test, at its source."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from support.guests import EXERCISE, broken_driver

pytestmark = [
    pytest.mark.guest,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed"),
]


def read_to(stream: IO[str], pattern: str) -> re.Match[str]:
    """Read lines until one has the pattern; what hangs is ended by the test's own limit."""
    seen = []
    for line in stream:
        seen.append(line)
        if match := re.search(pattern, line):
            return match
    raise AssertionError(f"no {pattern!r} in {seen}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_breakpoint_in_a_module_is_hit_at_its_source(tmp_path: Path) -> None:
    source = broken_driver("warn", tmp_path)
    shell = f"while sleep 1; do {EXERCISE}; done"
    words = ["guest", "--accel", "tcg", "--gdb", str(free_port()), "--build", source, "--exec", shell]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    guest = subprocess.Popen(
        [sys.executable, "-m", "ihsm", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert guest.stderr
    try:
        line = read_to(guest.stderr, r"to debug it, type: gdb (-x \S+)")[1]
        gdb = subprocess.Popen(["gdb", "-q", "-nx", *line.split()], **pipes)  # type: ignore[call-overload]
        try:
            # From start_kernel, or from the first instruction where the kernel's symbols are not known yet.
            gdb.stdin.write("info threads\ncontinue\n")
            gdb.stdin.flush()
            read_to(guest.stderr, "modules are loaded")
            os.kill(gdb.pid, signal.SIGINT)
            gdb.stdin.write("ihsm-modules\nbreak find_amiss\ncontinue\nbacktrace 2\ndetach\nquit\n")
            gdb.stdin.flush()
            read_to(gdb.stdout, rf"Breakpoint \d+ at 0x[0-9a-f]+: file {source}/bench_warn.c, line \d+")
            read_to(gdb.stdout, r"hit Breakpoint .*find_amiss")
            read_to(gdb.stdout, r"#1 .*exercise_store")
        finally:
            gdb.kill()
            gdb.communicate()
    finally:
        guest.kill()
        guest.communicate()
