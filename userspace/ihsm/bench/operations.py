# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM operations that may be sent again and again, and the same work by peers without a device."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ihsm.bench.peers import Buffers, Library, SoftHsm
from ihsm.bench.sample import Runner
from ihsm.bench.setups import der
from ihsm.ddi import Key, KeyRequest, Session
from ihsm_abi.ddi import AesKeySize, AesOp, EccCurve, HashAlgorithm, KeyClass, KeyType, KeyUsage, RsaOpType

DERIVE: Final = KeyRequest(KeyUsage.Derive)
ENCRYPT: Final = KeyRequest(KeyUsage.EncryptDecrypt)
SIGN: Final = KeyRequest(KeyUsage.SignVerify)
_CURVES: Final = {
    EccCurve.P256: (HashAlgorithm.Sha256, ec.SECP256R1()),
    EccCurve.P384: (HashAlgorithm.Sha384, ec.SECP384R1()),
    EccCurve.P521: (HashAlgorithm.Sha512, ec.SECP521R1()),
}


@dataclass(frozen=True)
class Operation:
    """One operation with its key."""

    id: str
    send: Callable[[], object]
    """Send the command once through the session given."""
    peers: dict[str, Runner] = field(default_factory=dict)


class Operations:
    """Makes keys with one session, and operations that another sends, which may record what it sends."""

    def __init__(self, session: Session, through: Session, openssl: Library | None, soft_hsm: SoftHsm | None) -> None:
        """Peers that are None are left out."""
        self._session, self._through = session, through
        self._openssl, self._soft_hsm = openssl, soft_hsm

    def ecdsa(self, curve: EccCurve) -> Operation:
        """`ecdsa-p256` and the like: a signature over the digest that suits the curve."""
        algorithm, own_curve = _CURVES[curve]
        digest = hashlib.new(algorithm.name.lower(), b"benchmark").digest()
        key = self._session.generate_ecc_key(curve, SIGN)
        peers = self._signer(der(ec.generate_private_key(own_curve)), digest)
        if self._soft_hsm is not None and curve is EccCurve.P256:
            peers["softhsm2"] = functools.partial(self._soft_hsm.ecdsa_p256, digest)
        send = functools.partial(self._through.ecc_sign, key, digest, algorithm)
        return Operation(f"ecdsa-{curve.name.lower()}", send, peers)

    def rsa(self, bits: int) -> Operation:
        """`rsa-2048` and the like: a private operation, with CRT."""
        own = _rsa_key(bits)
        key = self._session.import_key(own, KeyClass.RsaCrt, SIGN)
        message = b"\0" + os.urandom(bits // 8 - 1)
        peers = self._signer(own, hashlib.sha256(b"benchmark").digest())
        return Operation(
            f"rsa-{bits}", functools.partial(self._through.rsa_mod_exp, key, message, RsaOpType.Sign), peers
        )

    def hmac(self, message_bytes: int) -> Operation:
        """`hmac-sha256-64` and the like: a tag over a message of so many bytes."""
        message = bytes(message_bytes)
        shared = shared_secret(self._session)
        key = self._session.hkdf(shared, HashAlgorithm.Sha256, KeyType.HmacSha256, SIGN)
        peers: dict[str, Runner] = {}
        if self._openssl is not None:
            peers["openssl"] = functools.partial(self._openssl.hmac, message)
        return Operation(f"hmac-sha256-{message_bytes}", functools.partial(self._through.hmac, key, message), peers)

    def cbc(self, text_bytes: int) -> Operation:
        """`cbc-1024` and the like: AES-256-CBC encryption of so many bytes, which are whole blocks."""
        key = self._session.generate_aes_key(AesKeySize.Aes256, ENCRYPT)
        peers: dict[str, Runner] = {}
        if self._openssl is not None:
            buffers = Buffers(np.zeros(text_bytes, np.uint8), np.zeros(text_bytes, np.uint8), 1, text_bytes)
            peers["openssl"] = functools.partial(self._openssl.cbc, buffers, text_bytes)
        send = functools.partial(self._through.aes_cbc, key, AesOp.Encrypt, bytes(text_bytes), bytes(16))
        return Operation(f"cbc-{text_bytes}", send, peers)

    def _signer(self, key: bytes, digest: bytes) -> dict[str, Runner]:
        return {} if self._openssl is None else {"openssl": functools.partial(self._openssl.sign, key, digest)}


@functools.cache
def _rsa_key(bits: int) -> bytes:
    """One for all devices: to make one takes up to seconds."""
    return der(rsa.generate_private_key(65537, bits))


def shared_secret(session: Session) -> Key:
    """What two new P-256 keys agree on, to derive keys from."""
    pair, peer = (session.generate_ecc_key(EccCurve.P256, DERIVE) for _ in range(2))
    assert peer.public_key_der is not None
    return session.ecdh(pair, peer.public_key_der, KeyType.Secret256, DERIVE)
