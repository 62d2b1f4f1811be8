# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Python CWT: its COSE keys are made of numbers alone, and a key of the device has no private ones."""

from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cwt import COSEKey
from cwt.cose_key_interface import COSEKeyInterface

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey

_HASHES: Final = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_SIGN_AND_VERIFY: Final = [1, 2]


class HsmCoseKey(COSEKeyInterface):
    """A COSE key with the parameters of the public key, and that signs in the device."""

    def __init__(self, key: EcPrivateKey | RsaPrivateKey, alg: str, kid: bytes = b"") -> None:
        """`alg`: ES256, PS256, RS256 and so on (RFC 9053 §2, RFC 8812 §2)."""
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._public = COSEKey.from_pem(pem, alg=alg, kid=kid)
        super().__init__(self._public.to_dict() | {4: _SIGN_AND_VERIFY})
        self._device_key, self._family, self._hash = key, alg[:2], _HASHES[alg[2:]]

    def sign(self, msg: bytes) -> bytes:
        """The signature in COSE's form."""
        if isinstance(self._device_key, EcPrivateKey):
            size = (self._device_key.key_size + 7) // 8
            numbers = decode_dss_signature(self._device_key.sign(msg, ec.ECDSA(self._hash)))
            return b"".join(number.to_bytes(size, "big") for number in numbers)
        pss = padding.PSS(padding.MGF1(self._hash), self._hash.digest_size)
        return self._device_key.sign(msg, pss if self._family == "PS" else padding.PKCS1v15(), self._hash)

    def verify(self, msg: bytes, sig: bytes) -> None:
        """With the public key; the library's VerifyError if it does not match."""
        self._public.verify(msg, sig)

    def to_dict(self) -> dict[int, Any]:
        """The public key's parameters."""
        return self._public.to_dict()
