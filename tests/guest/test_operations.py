# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operations of the security module by a program in a guest, in both dialects: golden path and self-test."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import pytest

from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import DeviceKind
from support import golden_path
from support.guests import run_guest

pytestmark = pytest.mark.guest

TESTS = Path(__file__).parents[1]
KINDS = (DeviceKind.Virtual, DeviceKind.Physical)


@pytest.mark.timeout(3600)
def test_golden_path_and_every_family_in_both_dialects(tmp_path: Path) -> None:
    states = {kind.name: tmp_path / kind.name for kind in KINDS}
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(
                EmbeddedDevice(["--kind", name.lower(), "--state", str(state)]),
            ).socket_path
            for name, state in states.items()
        ]
        done = run_guest(
            f"PYTHONPATH={TESTS} {sys.executable} {TESTS / 'guest' / 'operations.py'}",
            sockets=tuple(sockets),
            modules=["vfio_iommu_type1", "vfio-pci"],
        )
    assert done.status == 0, done.err[-3000:]
    records = {record["kind"]: record for record in map(json.loads, done.out.splitlines())}
    assert set(records) == set(states)
    for kind in KINDS:
        report = records[kind.name]["selftest"]
        assert report["failed"] == 0, [step for step in report["steps"] if not step["ok"]]
        assert report["passed"] == 28
        golden_path.check(records[kind.name]["walk"], kind, states[kind.name])
