# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Map types that several DDI messages share (spec 03 §10)."""

from typing import Annotated, Self

from ihsm_abi.ddi.enums import KeyAvailability, KeyType, KeyUsage
from ihsm_abi.ddi.flags import TargetKeyFlags
from ihsm_abi.mbor import U32, Enum32, FixedOctets, MborMap, Nested, Octets


class ApiRev(MborMap):
    """Revision of the interface; ordered by major, then minor."""

    major: Annotated[int, U32(1)]
    minor: Annotated[int, U32(2)]

    def __lt__(self, other: "ApiRev") -> bool:
        """Whether this revision is older."""
        return (self.major, self.minor) < (other.major, other.minor)

    def __le__(self, other: "ApiRev") -> bool:
        """Whether this revision is not newer."""
        return (self.major, self.minor) <= (other.major, other.minor)


class DerPublicKey(MborMap):
    """Public key: SubjectPublicKeyInfo on a virtual device, raw little-endian on a physical one (spec 03 §6)."""

    der: Annotated[bytes, Octets(1, 768)]
    key_kind: Annotated[KeyType, Enum32(2)]


class TargetKeyMetadata(MborMap):
    """128 flag bits of a key to create (spec 03 §11)."""

    blob: Annotated[bytes, FixedOctets(1, 16)]

    @classmethod
    def of(cls, flags: TargetKeyFlags) -> Self:
        """Metadata that carry these flags."""
        return cls(blob=flags.to_bytes(16, "little"))

    @property
    def flags(self) -> TargetKeyFlags:
        """The flags; undefined bits are kept."""
        return TargetKeyFlags(int.from_bytes(self.blob, "little"))


class TargetKeyProperties(MborMap):
    """What a key to create is for, and its label."""

    key_metadata: Annotated[TargetKeyMetadata, Nested(1)]
    key_label: Annotated[bytes, Octets(2, 128)]


class KeyProperties(MborMap):
    """Host-side form of TargetKeyProperties; no operation carries it."""

    key_usage: Annotated[KeyUsage, Enum32(1)]
    key_availability: Annotated[KeyAvailability, Enum32(2)]
    key_label: Annotated[bytes, Octets(3, 128)]


class ErrResp(MborMap):
    """Data map of an error response."""
