# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""docs/attestation.md names every error that the device answers with, by its right number."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path
from typing import Final

import pytest

from ihsm_abi.ide_km import KpAckStatus
from ihsm_abi.spdm.codes import ErrorCode
from ihsm_abi.tdisp import TdispError

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/attestation.md").read_text()
NUMBER: Final = r"0x[0-9A-F]+|\d+"


def answered(errors: type[IntEnum]) -> set[int]:
    """Those that the responder's code names, each of which it answers with somewhere."""
    sources = (ROOT / "vfio_device/ihsm_device/trust").rglob("*.py")
    return {
        errors[name] for each in sources for name in re.findall(rf"\b{errors.__name__}\.([A-Z_]+)", each.read_text())
    }


def section(heading: str) -> str:
    return PAGE.partition(f" {heading}\n")[2].partition("\n## ")[0]


def test_errors_of_spdm() -> None:
    told = re.findall(rf"([A-Z]\w+) \(({NUMBER})\)", section("What goes wrong, and the answer"))
    assert {name for name, _ in told} == {
        each.name.title().replace("_", "") for each in map(ErrorCode, answered(ErrorCode))
    }
    for name, number in told:
        assert ErrorCode(int(number, 0)).name.title().replace("_", "") == name


@pytest.mark.parametrize(
    ("errors", "heading", "pattern"),
    [
        (TdispError, "The interface, locked: TDISP", rf"^\| ({NUMBER}) \|"),
        (KpAckStatus, "Keys of streams: IDE_KM", rf"[:,] ({NUMBER}) for "),
    ],
)
def test_codes_of_protocols(errors: type[IntEnum], heading: str, pattern: str) -> None:
    told = {int(number, 0) for number in re.findall(pattern, section(heading), re.MULTILINE)}
    assert told == answered(errors) - {0}, "0 is success"
