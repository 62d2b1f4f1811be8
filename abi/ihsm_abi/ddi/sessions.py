# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that open, reopen and close sessions and change the PIN (spec 03 §13, 04 §9)."""

from typing import Annotated

from ihsm_abi.ddi.types import DerPublicKey
from ihsm_abi.mbor import U8, U16, FixedOctets, MborMap, Nested, Octets


class GetSessionEncryptionKeyReq(MborMap):
    """1103 GetSessionEncryptionKey request."""


class GetSessionEncryptionKeyResp(MborMap):
    """1103 GetSessionEncryptionKey response."""

    pub_key: Annotated[DerPublicKey, Nested(1)]
    nonce: Annotated[bytes, FixedOctets(2, 32)]
    pub_key_signature: Annotated[bytes, Octets(3, 192)]


class EncryptedSessionCredential(MborMap):
    """Id, PIN and session seed, encrypted to the device's session key (spec 04 §5.2)."""

    encrypted_id: Annotated[bytes, Octets(1, 16)]
    encrypted_pin: Annotated[bytes, Octets(2, 16)]
    encrypted_seed: Annotated[bytes, Octets(3, 48)]
    iv: Annotated[bytes, Octets(4, 16)]
    nonce: Annotated[bytes, FixedOctets(5, 32)]
    tag: Annotated[bytes, FixedOctets(6, 48)]


class OpenSessionReq(MborMap):
    """1104 OpenSession request."""

    encrypted_credential: Annotated[EncryptedSessionCredential, Nested(1)]
    pub_key: Annotated[DerPublicKey, Nested(2)]


class OpenSessionResp(MborMap):
    """1104 OpenSession response."""

    sess_id: Annotated[int, U16(1)]
    short_app_id: Annotated[int, U8(2)]
    bmk_session: Annotated[bytes, Octets(3, 1024)]


class ReopenSessionReq(MborMap):
    """1110 ReopenSession request."""

    encrypted_credential: Annotated[EncryptedSessionCredential, Nested(1)]
    pub_key: Annotated[DerPublicKey, Nested(2)]
    bmk_session: Annotated[bytes, Octets(3, 1024)]


class ReopenSessionResp(MborMap):
    """1110 ReopenSession response."""

    sess_id: Annotated[int, U16(1)]
    short_app_id: Annotated[int, U8(2)]
    bmk_session: Annotated[bytes, Octets(3, 1024)]


class CloseSessionReq(MborMap):
    """1105 CloseSession request."""


class CloseSessionResp(MborMap):
    """1105 CloseSession response."""


class EncryptedPin(MborMap):
    """New PIN, encrypted to the device's session key; its ids start at 2."""

    encrypted_pin: Annotated[bytes, Octets(2, 16)]
    iv: Annotated[bytes, Octets(3, 16)]
    nonce: Annotated[bytes, FixedOctets(4, 32)]
    tag: Annotated[bytes, FixedOctets(5, 48)]


class ChangePinReq(MborMap):
    """1106 ChangePin request."""

    new_pin: Annotated[EncryptedPin, Nested(1)]
    pub_key: Annotated[DerPublicKey, Nested(2)]


class ChangePinResp(MborMap):
    """1106 ChangePin response."""
