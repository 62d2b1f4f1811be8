# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Flag words of keys: what a client asks for (spec 03 §11) and what a masked key stores (§12.5)."""

from enum import IntFlag

from ihsm_abi.ddi.enums import KeyUsage


class TargetKeyFlags(IntFlag):
    """Flags of a key to create: 128 bits, little-endian; undefined bits are kept and ignored."""

    SESSION = 1 << 0
    """The key lives only in the current session."""
    MODIFIABLE = 1 << 1
    ENCRYPT = 1 << 2
    DECRYPT = 1 << 3
    SIGN = 1 << 4
    VERIFY = 1 << 5
    DERIVE = 1 << 6
    WRAP = 1 << 7
    UNWRAP = 1 << 8

    USAGE_MASK = ENCRYPT | DECRYPT | SIGN | VERIFY | DERIVE | WRAP | UNWRAP

    @property
    def usage(self) -> KeyUsage | None:
        """The usage that exactly these usage flags stand for; None for every other combination."""
        return _USAGES.get(self & TargetKeyFlags.USAGE_MASK)


USAGE_FLAGS = {
    KeyUsage.SignVerify: TargetKeyFlags.SIGN | TargetKeyFlags.VERIFY,
    KeyUsage.EncryptDecrypt: TargetKeyFlags.ENCRYPT | TargetKeyFlags.DECRYPT,
    KeyUsage.Unwrap: TargetKeyFlags.UNWRAP,
    KeyUsage.Derive: TargetKeyFlags.DERIVE,
}
"""The flags that a usage is sent as."""
_USAGES = {flags: usage for usage, flags in USAGE_FLAGS.items()}


class KeyAttributeFlags(IntFlag):
    """Flags of a stored key: 64 bits, little-endian, bytes 0-7 of the attributes in a masked key."""

    INTERNAL = 1 << 0
    SESSION = 1 << 1
    PRIVATE = 1 << 2
    MODIFIABLE = 1 << 3
    DESTROYABLE = 1 << 4
    LOCAL = 1 << 5
    EXTRACTABLE = 1 << 6
    NEVER_EXTRACTABLE = 1 << 7
    TRUSTED = 1 << 8
    WRAP_WITH_TRUSTED = 1 << 9
    ENCRYPT = 1 << 10
    DECRYPT = 1 << 11
    SIGN = 1 << 12
    VERIFY = 1 << 13
    WRAP = 1 << 14
    UNWRAP = 1 << 15
    DERIVE = 1 << 16
