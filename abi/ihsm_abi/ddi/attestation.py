# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The key attestation report: a tagged COSE_Sign1 (RFC 9052) over a CBOR map (spec 05 §14)."""

from enum import IntEnum, IntFlag
from typing import Final

COSE_SIGN1_TAG: Final = 18
ES384: Final = -35
"""COSE algorithm of the signature."""
CONTENT_TYPE: Final = "application/cbor"
PROTECTED_HEADER: Final = bytes.fromhex("A201382203706170706C69636174696F6E2F63626F72")
"""{1: ES384, 3: CONTENT_TYPE}, encoded."""
REPORT_VERSION: Final = 1
REPORT_MAX_BYTES: Final = 834
REPORT_DATA_BYTES: Final = 128
PUBLIC_KEY_BYTES: Final = 525
"""Length of the zero-padded COSE_Key field, whatever the key."""


class ReportField(IntEnum):
    """Keys of the payload map, in their order."""

    VERSION = 0
    PUBLIC_KEY = 1
    PUBLIC_KEY_SIZE = 2
    FLAGS = 3
    APP_UUID = 4
    REPORT_DATA = 5
    VM_LAUNCH_ID = 6


class AttestationFlags(IntFlag):
    """Claims about the attested key."""

    IMPORTED = 1 << 0
    SESSION = 1 << 1
    GENERATED = 1 << 2
    ENCRYPT = 1 << 3
    DECRYPT = 1 << 4
    SIGN = 1 << 5
    VERIFY = 1 << 6
    WRAP = 1 << 7
    UNWRAP = 1 << 8
    DERIVE = 1 << 9
