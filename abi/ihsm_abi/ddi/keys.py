# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that create, find, restore, attest and delete keys (spec 03 §13, 05)."""

from typing import Annotated

from ihsm_abi.ddi.enums import AesKeySize, EccCurve, HashAlgorithm, KeyClass, KeyType, RsaCryptoPadding
from ihsm_abi.ddi.types import DerPublicKey, TargetKeyProperties
from ihsm_abi.mbor import U16, Enum32, MborMap, Nested, Octets


class EccGenerateKeyPairReq(MborMap):
    """1061 EccGenerateKeyPair request."""

    curve: Annotated[EccCurve, Enum32(1)]
    key_tag: Annotated[int | None, U16(2)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(3)]


class EccGenerateKeyPairResp(MborMap):
    """1061 EccGenerateKeyPair response."""

    private_key_id: Annotated[int, U16(1)]
    pub_key: Annotated[DerPublicKey, Nested(2)]
    masked_key: Annotated[bytes, Octets(3, 3072)]


class AesGenerateKeyReq(MborMap):
    """1071 AesGenerateKey request."""

    key_size: Annotated[AesKeySize, Enum32(1)]
    key_tag: Annotated[int | None, U16(2)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(3)]


class AesGenerateKeyResp(MborMap):
    """1071 AesGenerateKey response."""

    key_id: Annotated[int, U16(1)]
    bulk_key_id: Annotated[int | None, U16(2)] = None
    masked_key: Annotated[bytes, Octets(3, 3072)]


class RsaUnwrapReq(MborMap):
    """1035 RsaUnwrap request."""

    key_id: Annotated[int, U16(1)]
    wrapped_blob: Annotated[bytes, Octets(2, 3072)]
    wrapped_blob_key_class: Annotated[KeyClass, Enum32(3)]
    wrapped_blob_padding: Annotated[RsaCryptoPadding, Enum32(4)]
    wrapped_blob_hash_algorithm: Annotated[HashAlgorithm, Enum32(5)]
    key_tag: Annotated[int | None, U16(6)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(7)]


class RsaUnwrapResp(MborMap):
    """1035 RsaUnwrap response."""

    key_id: Annotated[int, U16(1)]
    pub_key: Annotated[DerPublicKey | None, Nested(2)] = None
    bulk_key_id: Annotated[int | None, U16(3)] = None
    kind: Annotated[KeyType, Enum32(4)]
    masked_key: Annotated[bytes, Octets(5, 3072)]


class GetUnwrappingKeyReq(MborMap):
    """1051 GetUnwrappingKey request."""


class GetUnwrappingKeyResp(MborMap):
    """1051 GetUnwrappingKey response."""

    key_id: Annotated[int, U16(1)]
    pub_key: Annotated[DerPublicKey, Nested(2)]
    masked_key: Annotated[bytes, Octets(3, 1024)]


class UnmaskKeyReq(MborMap):
    """1107 UnmaskKey request."""

    masked_key: Annotated[bytes, Octets(1, 3072)]


class UnmaskKeyResp(MborMap):
    """1107 UnmaskKey response."""

    key_id: Annotated[int, U16(1)]
    pub_key: Annotated[DerPublicKey | None, Nested(2)] = None
    bulk_key_id: Annotated[int | None, U16(3)] = None
    kind: Annotated[KeyType, Enum32(4)]
    masked_key: Annotated[bytes, Octets(5, 3072)]


class OpenKeyReq(MborMap):
    """1015 OpenKey request."""

    key_tag: Annotated[int, U16(1)]


class OpenKeyResp(MborMap):
    """1015 OpenKey response."""

    key_id: Annotated[int, U16(1)]
    key_kind: Annotated[KeyType, Enum32(2)]
    pub_key: Annotated[DerPublicKey | None, Nested(3)] = None
    bulk_key_id: Annotated[int | None, U16(4)] = None


class AttestKeyReq(MborMap):
    """1016 AttestKey request."""

    key_id: Annotated[int, U16(1)]
    report_data: Annotated[bytes, Octets(2, 128)]


class AttestKeyResp(MborMap):
    """1016 AttestKey response."""

    report: Annotated[bytes, Octets(1, 834)]


class DeleteKeyReq(MborMap):
    """1014 DeleteKey request."""

    key_id: Annotated[int, U16(1)]


class DeleteKeyResp(MborMap):
    """1014 DeleteKey response."""
