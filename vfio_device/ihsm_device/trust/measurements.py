# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The 36 measurement blocks (spec 06 §1.3): what of them this device has, and what is zeros for want of it.

Filled are: package version and security version, the policy, the images of code, the list of files, the configuration.
There is no ROM, no fuse and no signed firmware here, so that keys, counters and manifests are zeros, as an image is
that a package does not have. docs/attestation.md says what each block covers.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ihsm_abi.spdm.manifest import (
    CONTROL_BLOCK,
    DIGEST_BYTES,
    FAST_BLOCK,
    FILES_BLOCK,
    TRUST_BLOCK,
    MeasuredFile,
    image_digest,
    short_digests,
)
from ihsm_abi.spdm.measurements import REGISTERS, MeasurementType
from ihsm_device.trust.evidence import Measured

PLATFORM: Final = b"ihsm emulator"
"""What platforms are called here: nobody shall take this for hardware."""
CONFIGURATION_BLOCK: Final = 33
_HARDWARE: Final = MeasurementType.HARDWARE_CONFIGURATION
_SETTINGS: Final = MeasurementType.FIRMWARE_CONFIGURATION
_CODE: Final = MeasurementType.MUTABLE_FIRMWARE
_EVENT_VERSION: Final = 0
_KEY: Final = bytes(96)
_DIGEST: Final = bytes(DIGEST_BYTES)
_DEVELOPMENT: Final = 2
"""Type of a build (spec 06 §1.4)."""
_PERSISTENT_POLICY: Final = 1
_NO_SIGNATURES: Final = 1
_NO_ANTI_ROLLBACK: Final = 2
_POLICY_FIRST: Final = 10
_POLICY_LAST: Final = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """How a device was started."""

    version: str
    """Of the package: numbers with dots between them."""
    svn: int
    profile: str
    configuration: Mapping[str, Any]
    """Everything else that decides how it behaves, as JSON has it."""
    validation_hooks: bool


def measure_device(files: Sequence[MeasuredFile], settings: Settings) -> tuple[Measured, ...]:
    """Blocks 1 to 36."""
    build = _build_version(settings.version)
    svn = struct.pack("<Q", settings.svn)
    fenced = not settings.validation_hooks
    events = {
        1: (0xE1000000, _HARDWARE, bytes(11)),
        2: (0xE1000001, _HARDWARE, _KEY),
        3: (0xE1000002, _HARDWARE, bytes(4)),
        4: (0xE1000003, _HARDWARE, bytes(256)),
        5: (0xE1000004, _SETTINGS, _KEY),
        6: (0xE1000005, _SETTINGS, _KEY),
        7: (0xE1000007, _CODE, bytes(4)),
        8: (0xE1000008, _CODE, bytes(8)),
        9: (0xE1000009, _CODE, _DIGEST),
        10: (0xE1000100, _SETTINGS, _policy(fenced=fenced)),
        11: (0xE1000101, _SETTINGS, _DIGEST),
        12: (0xE1000102, _SETTINGS, bytes(8)),
        13: (0xE1000103, _SETTINGS, _KEY),
        14: (0xE1000104, _CODE, svn),
        15: (0xE1000105, _CODE, build),
        16: (0xE1000106, _CODE, image_digest(files, TRUST_BLOCK)),
        17: (0xE1000107, _HARDWARE, bytes(16)),
        18: (0xE1000108, _HARDWARE, bytes(16)),
        19: (0xE1000200, _SETTINGS, _DIGEST),
        20: (0xE1000201, _SETTINGS, bytes(8)),
        21: (0xE1000202, _SETTINGS, _KEY),
        22: (0xE1000203, _CODE, svn),
        23: (0xE1000204, _CODE, build),
        24: (0xE1000205, _CODE, image_digest(files, CONTROL_BLOCK)),
        25: (0xE1000206, _CODE, image_digest(files, FAST_BLOCK)),
        26: (0xE1000207, _CODE, _DIGEST),
        27: (0xE1000208, _CODE, _DIGEST),
        28: (0xE1000209, _CODE, _DIGEST),
    }
    plain = {
        FILES_BLOCK: (_SETTINGS, short_digests(files)),
        30: (_SETTINGS, struct.pack("<I", 1)),
        31: (_SETTINGS, struct.pack("<I", len(files))),
        32: (_SETTINGS, PLATFORM),
        CONFIGURATION_BLOCK: (_SETTINGS, json.dumps(settings.configuration, sort_keys=True).encode()),
        34: (_SETTINGS, settings.profile.encode()),
        35: (_SETTINGS, PLATFORM),
        36: (_HARDWARE, bytes(4)),
    }
    return (
        *(Measured(index, kind, record_data(event, data)) for index, (event, kind, data) in events.items()),
        *(Measured(index, kind, data) for index, (kind, data) in plain.items()),
    )


def record_data(event: int, data: bytes) -> bytes:
    """Data of an event's record, with the header that says which event it is."""
    return struct.pack("<IB", event, _EVENT_VERSION) + data


def firmware_id(measured: Sequence[Measured]) -> bytes:
    """What the alias that proves is bound to: SHA-384 over the digests of blocks 10 to 16 (spec 06 §1.5)."""
    blocks = (each for each in measured if _POLICY_FIRST <= each.index <= _POLICY_LAST)
    return hashlib.sha384(b"".join(hashlib.sha384(each.data).digest() for each in blocks)).digest()


def _build_version(version: str) -> bytes:
    """Major, minor and release from byte 3 downwards, then the type of the build (spec 06 §1.4)."""
    major, minor, release = (int(number) for number in version.split(".")[:3])
    return bytes([0, release, minor, major, _DEVELOPMENT, 0, 0, 0])


def _policy(*, fenced: bool) -> bytes:
    """40 bytes: nothing checks signatures or versions here, and validation hooks are what fencing keeps out."""
    return struct.pack("<BBBBB35x", _PERSISTENT_POLICY, _NO_SIGNATURES | _NO_ANTI_ROLLBACK, 0, 0 if fenced else 1, 0)


assert sum(map(len, REGISTERS.values())) == CONFIGURATION_BLOCK + 3
