# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The modules of device and client under Address-, UndefinedBehavior- and ThreadSanitizer, loaded by plain Python."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest

from support.native_builds import ROOT, native_build, run_with_native

SUPPORT: Final = ROOT / "tests" / "support"
RUNTIMES: Final = {"address,undefined": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
ROUNDS: Final = 1000
OPTIONS: Final = {
    # Python frees little of what it allocated once; leaks are looked for elsewhere.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1:exitcode=99",
    "TSAN_OPTIONS": f"suppressions={Path(__file__).with_name('tsan.supp')}:history_size=7:exitcode=99",
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=RUNTIMES)
def sanitized(request: pytest.FixtureRequest) -> tuple[Path, dict[str, str]]:
    """Path of the device's module in a build with a sanitizer, and the environment to run it in."""
    module = native_build(
        f"sanitize-{request.param.split(',')[0]}",
        f"-Db_sanitize={request.param}", "-Db_lundef=false", "-Dbuildtype=debugoptimized",
    )  # fmt: skip
    runtimes = [
        subprocess.run(["cc", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in RUNTIMES[request.param]
    ]
    return module, OPTIONS | {"LD_PRELOAD": " ".join(runtimes)}


def run(sanitized: tuple[Path, dict[str, str]], *arguments: str) -> None:
    module, environment = sanitized
    done = run_with_native(module, *arguments, environment=environment)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report[-20_000:]
    assert "Sanitizer" not in report
    assert "runtime error" not in report


@pytest.mark.parametrize("doorbells", ["trap", "page"])
@pytest.mark.parametrize("storm", ["storm.py", "faulty_storm.py"])
def test_storm(sanitized: tuple[Path, dict[str, str]], storm: str, doorbells: str) -> None:
    run(sanitized, str(SUPPORT / storm), str(ROUNDS), doorbells)


def run_tests(sanitized: tuple[Path, dict[str, str]], tests: str) -> None:
    run(
        sanitized, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "--timeout=1200", "-m", "not long",
        str(ROOT / "tests" / tests),
    )  # fmt: skip


@pytest.mark.parametrize(
    "tests",
    [
        "engine",
        "test_vfu.py",
        "test_vfu_messages.py",
        "test_config_space.py",
        "fastpath",
        "faults",
        "trace",
        "test_storm.py",
        "test_msix.py",
        "test_controller.py",
        "test_admin.py",
        "test_workers.py",
        "test_slow_commands.py",
        "express/test_withdrawal.py",
    ],
)
def test_suites_of_the_device(sanitized: tuple[Path, dict[str, str]], tests: str) -> None:
    run_tests(sanitized, f"vfio_device/{tests}")


@pytest.mark.parametrize("tests", ["driver", "test_aio.py", "ddi/test_arrays.py", "test_forks.py"])
def test_suites_of_the_client(sanitized: tuple[Path, dict[str, str]], tests: str) -> None:
    run_tests(sanitized, f"userspace/{tests}")
