# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""PyHanko: its own signer holds the key as PKCS#8; a signer of another kind gives it what a device signed."""

from typing import Any

from asn1crypto.x509 import Certificate
from cryptography.hazmat.primitives.asymmetric import ec, padding
from pyhanko.sign.signers import Signer
from pyhanko_certvalidator.util import get_pyca_cryptography_hash, process_pss_params

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey


class HsmSigner(Signer):
    """Signs in the device, without blocking the event loop."""

    def __init__(self, key: EcPrivateKey | RsaPrivateKey, certificate: bytes, **options: Any) -> None:
        """`certificate`: the key's, DER; `options`: of pyHanko's `Signer`, such as `prefer_pss` and `cert_registry`."""
        super().__init__(signing_cert=Certificate.load(certificate), **options)
        self._device_key = key

    async def async_sign_raw(self, data: bytes, digest_algorithm: str, dry_run: bool = False) -> bytes:
        """The signature of the attributes; zeros as long as any can be if only room is made for it."""
        if dry_run:
            return bytes(self._device_key.key_size // 8 if isinstance(self._device_key, RsaPrivateKey) else 144)
        chosen = get_pyca_cryptography_hash(digest_algorithm)
        if isinstance(self._device_key, EcPrivateKey):
            return await self._device_key.sign_async(data, ec.ECDSA(chosen))
        mechanism = self.get_signature_mechanism_for_digest(digest_algorithm)
        if mechanism.signature_algo != "rsassa_pss":
            return await self._device_key.sign_async(data, padding.PKCS1v15(), chosen)
        return await self._device_key.sign_async(data, *process_pss_params(mechanism["parameters"]))
