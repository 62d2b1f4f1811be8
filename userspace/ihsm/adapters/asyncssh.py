# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AsyncSSH: its keys are made of numbers or files; its key pairs, which an agent's keys are too, take any signer."""

from typing import Final

import asyncssh
from asyncssh.packet import MPInt, String
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey

_HASHES: Final = {b"256": hashes.SHA256(), b"384": hashes.SHA384(), b"521": hashes.SHA512(), b"512": hashes.SHA512()}
"""By the last three digits of what RFC 5656 §6.2 and RFC 8332 §3 call the algorithm."""


class HsmKeyPair(asyncssh.SSHKeyPair):
    """For `client_keys` and `server_host_keys`; signs in the device, on a thread of the loop's executor."""

    def __init__(self, key: EcPrivateKey | RsaPrivateKey, comment: str | None = None) -> None:
        """`comment`: for people, as behind a public key in a file."""
        text = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        public = asyncssh.import_public_key(text)
        names = [name for name in public.sig_algorithms if name[-3:] in _HASHES and b"@" not in name]
        super().__init__(public.algorithm, names[0], names, names, public.public_data, comment, use_executor=True)
        self._device_key = key

    def sign(self, data: bytes) -> bytes:
        """The signature in SSH's form (RFC 4253 §6.6)."""
        chosen = _HASHES[self.sig_algorithm[-3:]]
        if isinstance(self._device_key, RsaPrivateKey):
            signature = self._device_key.sign(data, padding.PKCS1v15(), chosen)
        else:
            numbers = decode_dss_signature(self._device_key.sign(data, ec.ECDSA(chosen)))
            signature = b"".join(MPInt(number) for number in numbers)
        return String(self.sig_algorithm) + String(signature)
