# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that provision a partition and establish its credential (spec 03 §13, 04 §9)."""

from typing import Annotated

from ihsm_abi.ddi.types import DerPublicKey
from ihsm_abi.mbor import FixedOctets, MborMap, Nested, Octets


class InitBk3Req(MborMap):
    """1111 InitBk3 request."""

    bk3: Annotated[bytes, Octets(1, 48, secret=True)]


class InitBk3Resp(MborMap):
    """1111 InitBk3 response."""

    masked_bk3: Annotated[bytes, Octets(1, 1024)]
    vm_launch_guid: Annotated[bytes, FixedOctets(2, 16)]


class GetSealedBk3Req(MborMap):
    """1112 GetSealedBk3 request."""


class GetSealedBk3Resp(MborMap):
    """1112 GetSealedBk3 response."""

    sealed_bk3: Annotated[bytes, Octets(1, 1024, secret=True)]


class SetSealedBk3Req(MborMap):
    """1113 SetSealedBk3 request."""

    sealed_bk3: Annotated[bytes, Octets(1, 1024, secret=True)]


class SetSealedBk3Resp(MborMap):
    """1113 SetSealedBk3 response."""


class GetEstablishCredEncryptionKeyReq(MborMap):
    """1101 GetEstablishCredEncryptionKey request."""


class GetEstablishCredEncryptionKeyResp(MborMap):
    """1101 GetEstablishCredEncryptionKey response."""

    pub_key: Annotated[DerPublicKey, Nested(1)]
    nonce: Annotated[bytes, FixedOctets(2, 32)]
    pub_key_signature: Annotated[bytes, Octets(3, 192)]


class EncryptedEstablishCredential(MborMap):
    """Id and PIN, encrypted to the device's credential key (spec 04 §5.2)."""

    encrypted_id: Annotated[bytes, Octets(1, 16)]
    encrypted_pin: Annotated[bytes, Octets(2, 16)]
    iv: Annotated[bytes, Octets(3, 16)]
    nonce: Annotated[bytes, FixedOctets(4, 32)]
    tag: Annotated[bytes, FixedOctets(5, 48)]


class EstablishCredentialReq(MborMap):
    """1102 EstablishCredential request."""

    encrypted_credential: Annotated[EncryptedEstablishCredential, Nested(1)]
    pub_key: Annotated[DerPublicKey, Nested(2)]
    masked_bk3: Annotated[bytes, Octets(3, 1024)]
    bmk: Annotated[bytes, Octets(4, 1024)]
    masked_unwrapping_key: Annotated[bytes, Octets(5, 1024)]
    pota_sig: Annotated[bytes, Octets(6, 1024)]
    pota_pub_key: Annotated[DerPublicKey, Nested(7)]


class EstablishCredentialResp(MborMap):
    """1102 EstablishCredential response."""

    bmk: Annotated[bytes, Octets(1, 1024)]
