# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that use keys: sign, decrypt, MAC, derive (spec 03 §13, 05)."""

from typing import Annotated

from ihsm_abi.ddi.enums import AesOp, HashAlgorithm, KeyType, RsaOpType
from ihsm_abi.ddi.types import TargetKeyProperties
from ihsm_abi.mbor import U8, U16, Enum32, MborMap, Nested, Octets


class EccSignReq(MborMap):
    """1062 EccSign request."""

    key_id: Annotated[int, U16(1)]
    digest: Annotated[bytes, Octets(2, 96, secret=True)]
    digest_algo: Annotated[HashAlgorithm, Enum32(3)]


class EccSignResp(MborMap):
    """1062 EccSign response."""

    signature: Annotated[bytes, Octets(1, 192)]


class RsaModExpReq(MborMap):
    """1031 RsaModExp request."""

    key_id: Annotated[int, U16(1)]
    y: Annotated[bytes, Octets(2, 512, secret=True)]
    op_type: Annotated[RsaOpType, Enum32(3)]


class RsaModExpResp(MborMap):
    """1031 RsaModExp response."""

    x: Annotated[bytes, Octets(1, 512, secret=True)]


class AesEncryptDecryptReq(MborMap):
    """1072 AesEncryptDecrypt request."""

    key_id: Annotated[int, U16(1)]
    op: Annotated[AesOp, Enum32(2)]
    msg: Annotated[bytes, Octets(3, 1024, secret=True)]
    iv: Annotated[bytes, Octets(4, 16, secret=True)]
    """Of a text that goes on: a block of what went before."""


class AesEncryptDecryptResp(MborMap):
    """1072 AesEncryptDecrypt response."""

    msg: Annotated[bytes, Octets(1, 1024, secret=True)]
    iv: Annotated[bytes, Octets(2, 16, secret=True)]
    """The last block of the encrypted text."""


class HmacReq(MborMap):
    """1077 Hmac request."""

    key_id: Annotated[int, U16(1)]
    msg: Annotated[bytes, Octets(2, 1024, secret=True)]


class HmacResp(MborMap):
    """1077 Hmac response."""

    tag: Annotated[bytes, Octets(1, 64, secret=True)]


class EcdhKeyExchangeReq(MborMap):
    """1074 EcdhKeyExchange request."""

    priv_key_id: Annotated[int, U16(1)]
    pub_key_der: Annotated[bytes, Octets(2, 192)]
    key_type: Annotated[KeyType, Enum32(3)]
    key_tag: Annotated[int | None, U16(4)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(5)]


class EcdhKeyExchangeResp(MborMap):
    """1074 EcdhKeyExchange response."""

    key_id: Annotated[int, U16(1)]
    masked_key: Annotated[bytes, Octets(2, 3072)]


class HkdfDeriveReq(MborMap):
    """1075 HkdfDerive request."""

    key_id: Annotated[int, U16(1)]
    hash_algorithm: Annotated[HashAlgorithm, Enum32(2)]
    salt: Annotated[bytes | None, Octets(3, 256, secret=True)] = None
    info: Annotated[bytes | None, Octets(4, 256)] = None
    key_type: Annotated[KeyType, Enum32(5)]
    key_tag: Annotated[int | None, U16(6)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(7)]
    key_length: Annotated[int | None, U8(8)] = None


class HkdfDeriveResp(MborMap):
    """1075 HkdfDerive response."""

    key_id: Annotated[int, U16(1)]
    masked_key: Annotated[bytes, Octets(2, 3072)]
    bulk_key_id: Annotated[int | None, U16(3)] = None


class KbkdfCounterHmacDeriveReq(MborMap):
    """1076 KbkdfCounterHmacDerive request."""

    key_id: Annotated[int, U16(1)]
    hash_algorithm: Annotated[HashAlgorithm, Enum32(2)]
    label: Annotated[bytes | None, Octets(3, 256)] = None
    context: Annotated[bytes | None, Octets(4, 256)] = None
    key_type: Annotated[KeyType, Enum32(5)]
    key_tag: Annotated[int | None, U16(6)] = None
    key_properties: Annotated[TargetKeyProperties, Nested(7)]
    key_length: Annotated[int | None, U8(8)] = None


class KbkdfCounterHmacDeriveResp(MborMap):
    """1076 KbkdfCounterHmacDerive response."""

    key_id: Annotated[int, U16(1)]
    masked_key: Annotated[bytes, Octets(2, 3072)]
    bulk_key_id: Annotated[int | None, U16(3)] = None
