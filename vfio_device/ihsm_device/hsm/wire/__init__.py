# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What goes over the wire: dialects, types of keys, public points, DER."""

from ihsm_device.hsm.wire import der
from ihsm_device.hsm.wire.curves import BY_ID, BY_PRIVATE_TYPE, P384, Curve, Point
from ihsm_device.hsm.wire.dialect import DIALECTS, Dialect
from ihsm_device.hsm.wire.keytypes import (
    AES_TYPE_OF_LENGTH,
    ENCRYPTION_KEY_BYTES,
    MASKING_TYPE,
    SESSION_BYTES,
    TYPES,
    USAGE_FLAGS,
    USAGES,
    Family,
    TypeInfo,
)

__all__ = [
    "AES_TYPE_OF_LENGTH",
    "BY_ID",
    "BY_PRIVATE_TYPE",
    "DIALECTS",
    "ENCRYPTION_KEY_BYTES",
    "MASKING_TYPE",
    "P384",
    "SESSION_BYTES",
    "TYPES",
    "USAGES",
    "USAGE_FLAGS",
    "Curve",
    "Dialect",
    "Family",
    "Point",
    "TypeInfo",
    "der",
]
