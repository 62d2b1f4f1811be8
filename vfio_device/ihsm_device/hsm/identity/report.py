# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key attestation reports: a COSE_Sign1 over what is claimed of a key (spec 05 §14; RFC 9052, RFC 9053).

Pure encoding: the caller brings the public key, the claims and the signature.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

import cbor2

from ihsm_abi.ddi import EccCurve, KeyAttributeFlags
from ihsm_device.hsm.keystore import RsaPublic
from ihsm_device.hsm.profile import AttestationClaims
from ihsm_device.hsm.wire import Family

COSE_SIGN1_TAG: Final = 18
PROTECTED_HEADER: Final = cbor2.dumps({1: -35, 3: "application/cbor"})
"""ES384, content type application/cbor."""
REPORT_VERSION: Final = 1
PUBLIC_KEY_BYTES: Final = 525
"""The field of the public key is filled up to this length: the largest COSE_Key, of RSA-4096."""
REPORT_DATA_BYTES: Final = 128
SIGNATURE_BYTES: Final = 96


class Claim(IntFlag):
    """Claim bits of a report (spec 05 §14.3)."""

    IS_IMPORTED = 1 << 0
    IS_SESSION_KEY = 1 << 1
    IS_GENERATED = 1 << 2
    CAN_ENCRYPT = 1 << 3
    CAN_DECRYPT = 1 << 4
    CAN_SIGN = 1 << 5
    CAN_VERIFY = 1 << 6
    CAN_WRAP = 1 << 7
    CAN_UNWRAP = 1 << 8
    CAN_DERIVE = 1 << 9


_CLAIM_OF_FLAG: Final = {
    KeyAttributeFlags.SESSION: Claim.IS_SESSION_KEY,
    KeyAttributeFlags.ENCRYPT: Claim.CAN_ENCRYPT,
    KeyAttributeFlags.DECRYPT: Claim.CAN_DECRYPT,
    KeyAttributeFlags.SIGN: Claim.CAN_SIGN,
    KeyAttributeFlags.VERIFY: Claim.CAN_VERIFY,
    KeyAttributeFlags.WRAP: Claim.CAN_WRAP,
    KeyAttributeFlags.UNWRAP: Claim.CAN_UNWRAP,
    KeyAttributeFlags.DERIVE: Claim.CAN_DERIVE,
}


def claims(flags: KeyAttributeFlags, family: Family, rule: AttestationClaims) -> Claim:
    """Claim bits for a key with the given stored attributes.

    Under CLIENT_TABLE bulk keys claim to be imported, HMAC keys neither sign nor verify, and no key wraps: what clients
    of the device compare with (spec 05 §14.3).
    """
    claimed = Claim.IS_GENERATED if flags & KeyAttributeFlags.LOCAL else Claim.IS_IMPORTED
    for flag, claim in _CLAIM_OF_FLAG.items():
        if flags & flag:
            claimed |= claim
    if rule is AttestationClaims.CLIENT_TABLE:
        if family is Family.BULK:
            claimed = claimed & ~Claim.IS_GENERATED | Claim.IS_IMPORTED
        if family is Family.HMAC:
            claimed &= ~(Claim.CAN_SIGN | Claim.CAN_VERIFY)
        claimed &= ~Claim.CAN_WRAP
    return claimed


def cose_ec_key(curve: EccCurve, x: bytes, y: bytes) -> bytes:
    """COSE_Key of an EC2 key; coordinates big-endian, of the curve's full size."""
    return cbor2.dumps({1: 2, -1: int(curve), -2: x, -3: y})


def cose_rsa_key(public: RsaPublic) -> bytes:
    """COSE_Key of an RSA key; the exponent takes four bytes (spec 05 §14.2, firmware's form)."""
    return cbor2.dumps({1: 3, -1: public.n, -2: public.e.rjust(4, b"\0")})


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says; `public_key` is a COSE_Key, empty for a symmetric key."""

    public_key: bytes
    claims: Claim
    app_uuid: bytes
    report_data: bytes
    vm_launch_id: bytes

    def payload(self) -> bytes:
        """The CBOR map that is signed over."""
        return cbor2.dumps(
            {
                0: REPORT_VERSION,
                1: self.public_key.ljust(PUBLIC_KEY_BYTES, b"\0"),
                2: len(self.public_key),
                3: int(self.claims),
                4: self.app_uuid,
                5: self.report_data.ljust(REPORT_DATA_BYTES, b"\0"),
                6: self.vm_launch_id,
            }
        )


def to_be_signed(payload: bytes) -> bytes:
    """The Sig_structure of RFC 9052 §4.4, whose SHA-384 is signed."""
    return cbor2.dumps(["Signature1", PROTECTED_HEADER, b"", payload])


def signed(payload: bytes, signature: bytes) -> bytes:
    """The tagged COSE_Sign1 of a payload and its signature r ‖ s, 96 bytes big-endian."""
    return cbor2.dumps(cbor2.CBORTag(COSE_SIGN1_TAG, [PROTECTED_HEADER, {}, payload, signature]))
