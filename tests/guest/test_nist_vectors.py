# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""NIST's AES-GCM and AES-XTS vectors, submitted through the ring by a program in a guest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.guests import run_guest
from support.nist_aes import every_nth

pytestmark = pytest.mark.guest

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
        pytest.param(15, marks=pytest.mark.timeout(3600)),
    ],
)
def test_aes_agrees_with_nist(every: int) -> None:
    script = TESTS / "guest" / "nist_vectors.py"
    done = run_guest(
        f"PYTHONPATH={TESTS} {sys.executable} {script} {every}",
        devices=1,
        modules=["vfio_iommu_type1", "vfio-pci"],
    )
    assert done.status == 0, done.err[-3000:]
    expected = {group: len(cases) for group, cases in every_nth(every).items()}
    records = [json.loads(line) for line in done.out.splitlines()]
    assert {record["group"]: record["ran"] for record in records} == expected
    assert [record["differing"] for record in records] == [[]] * len(expected)
