# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Tests in this folder run in a process of their own, with a native module that has seams (native/seam.cdef.h)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from support.aes_rig import AesRig, standard_rig
from support.native_builds import run_with_native, seams_build
from support.rig import EngineRig
from support.seams import HAS_SEAMS, Seams

FAULTS = pytest.StashKey[dict[str, str]]()
"""What went wrong in the other process, by node id; of the files that have run."""


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Where the module has no seams, a test is what it was in a process where the module has them."""
    if HAS_SEAMS:
        return None
    faults = pyfuncitem.session.stash.setdefault(FAULTS, {})
    if pyfuncitem.nodeid not in faults:
        same_file = [item.nodeid for item in pyfuncitem.session.items if item.path == pyfuncitem.path]
        faults |= run_elsewhere(same_file)
    if faults[pyfuncitem.nodeid]:
        pytest.fail(faults[pyfuncitem.nodeid], pytrace=False)
    return True


def run_elsewhere(nodeids: list[str]) -> dict[str, str]:
    """Run tests of one file with seams: for each what went wrong, or nothing."""
    module = seams_build()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = run_with_native(
            module, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", f"--junitxml={report}", *nodeids
        )
        cases = ElementTree.parse(report).iter("testcase") if report.exists() else []
        problems = {case.get("name"): [problem.get("message", "") for problem in case] for case in cases}
    return {nodeid: fault(problems.get(nodeid.rpartition("::")[2]), done.stdout + done.stderr) for nodeid in nodeids}


def fault(problems: list[str] | None, output: str) -> str:
    """What went wrong, its reason first; nothing for a test that has run without problems."""
    return "" if problems == [] else "\n".join([*(problems or ["did not run"]), output])


@pytest.fixture
def seams() -> Iterator[Seams | None]:
    """The seams of this process, open again afterwards; None where the test runs elsewhere."""
    if not HAS_SEAMS:
        yield None
        return
    seams = Seams()
    yield seams
    seams.reset()


@pytest.fixture
def rig(seams: Seams | None) -> Iterator[EngineRig | None]:
    """A function with queues written by hand; threads that stand somewhere are let go before it is closed."""
    if seams is None:
        yield None
        return
    with EngineRig() as rig:
        yield rig
        seams.reset()


@pytest.fixture
def aes_rig(seams: Seams | None) -> Iterator[AesRig | None]:
    """A function with keys and two AES queues, likewise."""
    if seams is None:
        yield None
        return
    with standard_rig(queues=2) as rig:
        yield rig
        seams.reset()
