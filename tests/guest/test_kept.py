# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A module under work: built, loaded and run, and again in the same guest, each time with what the kernel says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.guests import EXERCISE, broken_driver

pytestmark = pytest.mark.guest


def guest(runtime: Path, *words: str | Path) -> tuple[int, str, str]:
    """Exit status, output and what is said of a command, which finds kept guests below `runtime`."""
    done = subprocess.run(
        [sys.executable, "-m", "ihsm", "guest", *words],
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_module_is_changed_and_runs_again_in_the_same_guest(tmp_path: Path) -> None:
    source = broken_driver("warn", tmp_path)
    file = source / "bench_warn.c"
    line = next(number for number, text in enumerate(file.read_text().splitlines(), 1) if 'amiss"' in text)
    show = f"{EXERCISE}; cat /proc/sys/kernel/random/boot_id"
    try:
        status, first, said = guest(tmp_path, "--keep", "--accel", "tcg", "--build", source, "--exec", show)
        assert status == 0, said
        complaints = [text for text in said.splitlines() if text.startswith("guest: kernel: ")]
        assert complaints == [
            f"guest: kernel: warning: bench: something is amiss ({file}:{line}, in find_amiss)",
            "guest: kernel: taint: W (the kernel issued a warning)",
        ]
        file.write_text(file.read_text().replace("something", "another thing").replace("bench;", "bench;\n", 1))
        status, second, said = guest(tmp_path, "--again", "--fail-on-warn")
        assert status == 126
        assert second == first  # the same boot
        assert f"another thing is amiss ({file}:{line + 1}, in find_amiss)" in said
        file.write_text(file.read_text().replace("WARN(bench", "WARN(!bench"))
        assert guest(tmp_path, "--again", "--fail-on-warn") == (0, first, "")
        assert guest(tmp_path, "--again", "--exec", "echo other; exit 3") == (3, "other\n", "")
    finally:
        ending = guest(tmp_path, "--end")
    assert ending == (0, "", "")
    assert guest(tmp_path, "--end")[0] == 125
