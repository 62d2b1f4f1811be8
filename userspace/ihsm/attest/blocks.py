# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Measurement blocks as a requester keeps them: their data, and what each is of (spec 06 §1.3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ihsm.attest.connection import HASH
from ihsm_abi.spdm.manifest import CONTROL_BLOCK, FAST_BLOCK, FILES_BLOCK, TRUST_BLOCK
from ihsm_abi.spdm.measurements import EVENT_HEADER_BYTES, LAST_TCB_BLOCK, MeasurementBlock, encode_record

VERSION_BLOCK: Final = 15
FILE_COUNT_BLOCK: Final = 31
PLATFORM_BLOCK: Final = 32
CONFIGURATION_BLOCK: Final = 33
PROFILE_BLOCK: Final = 34

NAMES: Final = {
    1: "security state", 2: "owner key", 3: "ROM manifest SVN", 4: "tenancy counter", 5: "boot signing key",
    6: "secondary signing key", 7: "boot SVN", 8: "boot version", 9: "boot image", 10: "policy",
    11: "firmware manifest", 12: "firmware manifest SVN", 13: "package key", 14: "package SVN",
    VERSION_BLOCK: "package version", TRUST_BLOCK: "code that proves", 17: "AEB state", 18: "AEB lock",
    19: "firmware manifest now", 20: "firmware manifest SVN now", 21: "package key now", 22: "package SVN now",
    23: "package version now", CONTROL_BLOCK: "code in Python", FAST_BLOCK: "native code", 26: "second fast path",
    27: "third fast path", 28: "PHY", FILES_BLOCK: "list of files", 30: "list of files there",
    FILE_COUNT_BLOCK: "number of files", PLATFORM_BLOCK: "platform", CONFIGURATION_BLOCK: "configuration",
    PROFILE_BLOCK: "profile", 35: "platform of the configuration", 36: "chassis intrusion",
}  # fmt: skip
"""What each block is of; docs/attestation.md says more."""


@dataclass(frozen=True, slots=True)
class MeasuredBlock:
    """One block, with its data."""

    index: int
    type: int
    """`ihsm_abi.spdm.measurements.MeasurementType`."""
    data: bytes

    @property
    def name(self) -> str:
        """What it is of."""
        return NAMES[self.index]

    @property
    def content(self) -> bytes:
        """The data without the header that events have."""
        return self.data[EVENT_HEADER_BYTES:] if self.index <= LAST_TCB_BLOCK else self.data

    def hashed(self) -> MeasurementBlock:
        """The block as devices give it where nobody asks for its data."""
        return MeasurementBlock.of(self.index, self.type, HASH(self.data).digest(), raw=False)


def summary_of(blocks: Iterable[MeasuredBlock]) -> bytes:
    """Summary hash over blocks (DSP0274 1.2 §10.8): what challenges and key exchanges sign."""
    return HASH(encode_record(block.hashed() for block in blocks)).digest()
