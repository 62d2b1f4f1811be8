# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The modules of device and client under Address-, UndefinedBehavior- and ThreadSanitizer, loaded by plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from support.native_builds import ROOT, SANITIZERS, run_with_native, sanitized_build

SUPPORT: Final = ROOT / "tests" / "support"
ROUNDS: Final = 1000

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(request: pytest.FixtureRequest) -> tuple[Path, dict[str, str]]:
    """Path of the device's module in a build with a sanitizer, and the environment to run it in."""
    return sanitized_build(request.param)


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
        "test_doe.py",
        "test_data_objects.py",
        "test_tdi.py",
        "trust",
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
