# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The storm and the controller's tests once more, on builds with AddressSanitizer and ThreadSanitizer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from support.native import VARIABLE

ROOT: Final = Path(__file__).parents[2]
SUITES: Final = (
    "tests/vfio_device/test_storm.py",
    "tests/vfio_device/test_controller.py",
    "tests/vfio_device/test_admin.py",
    "tests/vfio_device/test_msix.py",
    "tests/vfio_device/test_guest_drivers.py",
    "tests/vfio_device/test_workers.py",
    "tests/conformance/test_trace_replay.py",
)
SUPPRESSIONS: Final = """race:_multiarray_umath
race:dl_deallocate_tls
"""
"""The client is in the same process and polls phase bits through numpy, as a guest does from its own memory; glibc
reuses the thread-local storage of threads that have ended without telling the sanitizer."""


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(sanitizer: str, folder: Path) -> Path:
    """The native module with a sanitizer, the rest as in build/native."""
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    listed = run("meson", "introspect", "--buildoptions", "build/native", environment=environment)
    options = {option["name"]: option["value"] for option in json.loads(listed)}
    run(
        "meson", "setup", str(folder), "vfio_device/native", f"-Db_sanitize={sanitizer}", "-Db_lundef=false",
        "-Dbuildtype=debugoptimized", "-Dc_args=-Wno-error=tsan",
        *(f"-D{name}={options[name]}" for name in ("libvfio_user_src", "aws_lc")),
        environment=environment,
    )  # fmt: skip
    run("meson", "compile", "-C", str(folder), environment=environment)
    return next(folder.glob("_native*.so"))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("sanitizer", "library"), [("address", "libasan.so"), ("thread", "libtsan.so")])
def test_suites_are_clean(sanitizer: str, library: str, tmp_path: Path) -> None:
    module = build(sanitizer, tmp_path / "build")
    (tmp_path / "suppressions").write_text(SUPPRESSIONS)
    environment = {
        **os.environ,
        VARIABLE: str(module),
        "LD_PRELOAD": run("gcc", f"-print-file-name={library}").strip(),
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={tmp_path}/report",
        "TSAN_OPTIONS": f"suppressions={tmp_path}/suppressions:log_path={tmp_path}/report",
    }
    run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *SUITES, environment=environment)
    reports = [path.read_text() for path in tmp_path.glob("report*")]
    assert not reports, reports[0]
