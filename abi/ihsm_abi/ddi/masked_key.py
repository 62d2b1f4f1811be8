# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The container of masked keys, backup keys and masking keys (spec 03 §12). Format only: no key is used here.

All integers of the headers are little-endian u16; the metadata inside is a stand-alone MBOR map.
"""

import enum
import struct
from dataclasses import dataclass
from typing import Annotated, Final, Self

from ihsm_abi.aes_queue import GCM_IV_BYTES
from ihsm_abi.ddi.enums import KeyType
from ihsm_abi.ddi.flags import KeyAttributeFlags
from ihsm_abi.mbor import U16, U64, Buffer, Enum32, FixedOctets, MborMap, Nested, Octets


class MaskingKeyAlgorithm(enum.IntEnum):
    """How the key inside is protected; AesGcm256 has a layout but no implementation."""

    AesCbc256Hmac384 = 1
    AesGcm256 = 2


class MaskedKeyAttributes(MborMap):
    """Attributes of a masked key."""

    blob: Annotated[bytes, FixedOctets(1, 32)]

    @classmethod
    def of(cls, flags: KeyAttributeFlags, variable_length: int = 0) -> Self:
        """Attributes in the firmware's form; `variable_length` is the length of a variable-length HMAC key in bytes."""
        blob = bytearray(_ATTRIBUTES_BYTES)
        blob[:_ATTRIBUTE_FLAGS_BYTES] = flags.to_bytes(_ATTRIBUTE_FLAGS_BYTES, "little")
        blob[_ATTRIBUTE_LENGTH_OFFSET] = variable_length
        return cls(blob=bytes(blob))

    @property
    def flags(self) -> KeyAttributeFlags:
        """The flag word."""
        return KeyAttributeFlags(int.from_bytes(self.blob[:_ATTRIBUTE_FLAGS_BYTES], "little"))

    @property
    def variable_length(self) -> int:
        """Length in bytes of a variable-length HMAC key (firmware's form)."""
        return self.blob[_ATTRIBUTE_LENGTH_OFFSET]


class MaskedKeyMetadata(MborMap):
    """What a masked key says about its key, in clear."""

    svn: Annotated[int | None, U64(1)] = None
    key_type: Annotated[KeyType, Enum32(2)]
    key_attributes: Annotated[MaskedKeyAttributes, Nested(3)]
    bks2_index: Annotated[int | None, U16(4)] = None
    key_tag: Annotated[int | None, U16(5)] = None
    key_label: Annotated[bytes, Octets(6, 128)]
    key_length: Annotated[int, U16(7)]


_ATTRIBUTES_BYTES = 32
_ATTRIBUTE_FLAGS_BYTES = 8
_ATTRIBUTE_LENGTH_OFFSET = 24

VERSION: Final = 1
_HEADER = struct.Struct("<H")
_AES_HEADER = struct.Struct("<8H")
_RESERVED_BYTES = 34
_VERSION_AND_ALGORITHM_BYTES = 4
HEADER_BYTES: Final = 52
"""Length of both headers; the IV follows."""
MASKING_KEY_BYTES: Final = 80
"""AES-256 key, then HMAC-SHA-384 key."""
CBC_IV_BYTES: Final = 16
CBC_TAG_BYTES: Final = 48
_ALIGNMENT = 4


class MaskedKeyErrorKind(enum.Enum):
    """Why a container is refused (the format's part of spec 03 §12.3)."""

    InvalidLength = enum.auto()
    InvalidMaskingKeyAlgorithm = enum.auto()


class MaskedKeyError(ValueError):
    """Bytes that are no masked-key container."""

    def __init__(self, kind: MaskedKeyErrorKind, what: str) -> None:
        """Error of one kind; `what` is wrong."""
        super().__init__(f"{kind.name}: {what}")
        self.kind = kind


@dataclass(frozen=True, slots=True)
class MaskedKey:
    """The parts of a container."""

    algorithm: MaskingKeyAlgorithm
    iv: bytes
    metadata: bytes
    """Encoded `MaskedKeyMetadata`."""
    encrypted_key: bytes
    encrypted_key_offset: int
    """Where in the container the encrypted key starts."""
    tag: bytes
    tagged_bytes: int
    """Length of the container's leading part that the tag covers with AesCbc256Hmac384."""

    @classmethod
    def parse(cls, blob: Buffer) -> Self:
        """Take a container apart, with the checks of spec 03 §12.3 in their order.

        Raises:
            MaskedKeyError: not a container. The tag is not verified here.
        """
        data = bytes(blob)
        if len(data) < _VERSION_AND_ALGORITHM_BYTES:
            raise MaskedKeyError(MaskedKeyErrorKind.InvalidLength, f"{len(data)} bytes are no header")
        (algorithm,) = _HEADER.unpack_from(data, 2)
        if algorithm not in (MaskingKeyAlgorithm.AesCbc256Hmac384, MaskingKeyAlgorithm.AesGcm256):
            raise MaskedKeyError(MaskedKeyErrorKind.InvalidMaskingKeyAlgorithm, f"algorithm {algorithm}")
        if len(data) < HEADER_BYTES:
            raise MaskedKeyError(MaskedKeyErrorKind.InvalidLength, f"{len(data)} bytes, headers take {HEADER_BYTES}")
        lengths = _AES_HEADER.unpack_from(data, _VERSION_AND_ALGORITHM_BYTES)[:7]
        iv_len, iv_pad, metadata_len, metadata_pad, key_len, key_pad, tag_len = lengths
        if not (key_len and metadata_len and tag_len):
            raise MaskedKeyError(MaskedKeyErrorKind.InvalidLength, "a part is empty")
        if iv_len not in (CBC_IV_BYTES, GCM_IV_BYTES):
            raise MaskedKeyError(MaskedKeyErrorKind.InvalidLength, f"IV of {iv_len} bytes")
        if any(total % _ALIGNMENT for total in (iv_len + iv_pad, metadata_len + metadata_pad, key_len + key_pad)):
            raise MaskedKeyError(MaskedKeyErrorKind.InvalidLength, "a padded part is no multiple of 4 bytes")
        if len(data) - HEADER_BYTES != sum(lengths):
            raise MaskedKeyError(
                MaskedKeyErrorKind.InvalidLength, f"{len(data)} bytes, the parts take {HEADER_BYTES + sum(lengths)}"
            )
        metadata_at = HEADER_BYTES + iv_len + iv_pad
        key_at = metadata_at + metadata_len + metadata_pad
        return cls(
            algorithm=MaskingKeyAlgorithm(algorithm),
            iv=data[HEADER_BYTES : HEADER_BYTES + iv_len],
            metadata=data[metadata_at : metadata_at + metadata_len],
            encrypted_key=data[key_at : key_at + key_len],
            encrypted_key_offset=key_at,
            tag=data[-tag_len:],
            tagged_bytes=len(data) - tag_len,
        )


def masked_key_head(iv: bytes, metadata: bytes, encrypted_key_bytes: int) -> bytes:
    """Everything of an AesCbc256Hmac384 container that precedes the encrypted key.

    The container is this, then the encrypted key of `encrypted_key_bytes` bytes (a multiple of 16), then the 48-byte
    HMAC-SHA-384 tag over all of it.
    """
    metadata_pad = -len(metadata) % _ALIGNMENT
    key_pad = -encrypted_key_bytes % _ALIGNMENT
    return b"".join(
        (
            _HEADER.pack(VERSION),
            _HEADER.pack(MaskingKeyAlgorithm.AesCbc256Hmac384),
            struct.pack("<7H", len(iv), 0, len(metadata), metadata_pad, encrypted_key_bytes, key_pad, CBC_TAG_BYTES),
            bytes(_RESERVED_BYTES),
            iv,
            metadata,
            bytes(metadata_pad),
        )
    )
