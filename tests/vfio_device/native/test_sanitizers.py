# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The native module under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, loaded by plain Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
SUPPORT: Final = ROOT / "tests" / "support"
NATIVE: Final = ROOT / "vfio_device" / "native"
RUNTIMES: Final = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
ROUNDS: Final = 1000
OPTIONS: Final = {
    # Python frees little of what it allocated once; leaks are looked for elsewhere.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": f"suppressions={Path(__file__).with_name('tsan.supp')}:history_size=7:exitcode=99",
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def meson(*arguments: str) -> str:
    """Output of meson from the environment of this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["meson", *arguments], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=RUNTIMES)
def sanitized(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """Path of a build with a sanitizer, and the environment to run it in."""
    folder = ROOT / "build" / f"sanitize-{request.param.split(',')[0]}"
    if not (folder / "build.ninja").exists():
        options = {o["name"]: o["value"] for o in json.loads(meson("introspect", "--buildoptions", "build/native"))}
        copied = [f"-D{name}={options[name]}" for name in ("libvfio_user_src", "aws_lc")]
        meson(
            "setup", str(folder), str(NATIVE), *copied,
            f"-Db_sanitize={request.param}", "-Db_lundef=false", "-Dbuildtype=debugoptimized",
        )  # fmt: skip
    meson("compile", "-C", str(folder))
    runtimes = [
        subprocess.run(["cc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in RUNTIMES[request.param]
    ]
    environment = os.environ | OPTIONS | {"LD_PRELOAD": " ".join(runtimes), "PYTHONPATH": str(ROOT / "tests")}
    return str(folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"), environment


def run(sanitized: tuple[str, dict[str, str]], *arguments: str) -> None:
    module, environment = sanitized
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "with_native.py"), module, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    report = done.stdout + done.stderr
    assert done.returncode == 0, report[-20_000:]
    assert "Sanitizer" not in report
    assert "runtime error" not in report


@pytest.mark.parametrize("doorbells", ["trap", "page"])
def test_storm(sanitized: tuple[str, dict[str, str]], doorbells: str) -> None:
    run(sanitized, str(SUPPORT / "storm.py"), str(ROUNDS), doorbells)


@pytest.mark.parametrize(
    "tests",
    [
        "engine",
        "vfu/test_context.py",
        "fastpath",
        "test_storm.py",
        "test_msix.py",
        "test_controller.py",
        "test_admin.py",
        "test_workers.py",
    ],
)
def test_suites(sanitized: tuple[str, dict[str, str]], tests: str) -> None:
    run(
        sanitized, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--timeout=1200", "-m", "not long",
        str(ROOT / "tests" / "vfio_device" / tests),
    )  # fmt: skip
