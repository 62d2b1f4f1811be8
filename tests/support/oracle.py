# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The key hierarchy and masked keys, computed independently of the device (spec 04 §5–§7, 05 §16)."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from ihsm.ddi.transforms import ecc_spki_to_raw
from ihsm_abi import mbor
from ihsm_abi.ddi.masked_key import MaskedKey, MaskedKeyMetadata

MASKING_KEY_BYTES = 80
_AES_KEY_BYTES = 32


def kbkdf(key: bytes, label: bytes, context: bytes, length: int = MASKING_KEY_BYTES) -> bytes:
    """SP 800-108 counter mode with HMAC-SHA-384, 32-bit counter and length (spec 04 §6.1)."""
    derivation = KBKDFHMAC(
        algorithm=hashes.SHA384(),
        mode=Mode.CounterMode,
        length=length,
        rlen=4,
        llen=4,
        location=CounterLocation.BeforeFixed,
        label=label,
        context=context,
        fixed=None,
    )
    return derivation.derive(key)


def hmac_sha384(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-384."""
    mac = hmac.HMAC(key, hashes.SHA384())
    mac.update(message)
    return mac.finalize()


def aes_cbc(key: bytes, iv: bytes, data: bytes, *, encrypt: bool) -> bytes:
    """AES-CBC without padding."""
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv))
    context = cipher.encryptor() if encrypt else cipher.decryptor()
    return context.update(data) + context.finalize()


def channel_keys(shared: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    """AES_K and MAC_K of the credential-encryption protocol from the ECDH x coordinate (spec 04 §5.1)."""
    material = HKDF(hashes.SHA384(), MASKING_KEY_BYTES, salt=None, info=nonce).derive(shared)
    return material[:_AES_KEY_BYTES], material[_AES_KEY_BYTES:]


@dataclass(frozen=True)
class Opened:
    """A masked key that authenticates."""

    metadata: MaskedKeyMetadata
    plaintext: bytes
    """With the zero fill."""

    @property
    def key(self) -> bytes:
        """The first `key_length` bytes."""
        return self.plaintext[: self.metadata.key_length]


def open_masked(blob: bytes, masking_key: bytes) -> Opened:
    """Verify and decrypt a masked key; AssertionError if its tag is wrong."""
    parts = MaskedKey.parse(blob)
    assert hmac_sha384(masking_key[_AES_KEY_BYTES:], blob[: parts.tagged_bytes]) == parts.tag
    metadata, end = mbor.decode(MaskedKeyMetadata, parts.metadata)
    assert end == len(parts.metadata)
    plaintext = aes_cbc(masking_key[:_AES_KEY_BYTES], parts.iv, parts.encrypted_key, encrypt=False)
    return Opened(metadata, plaintext)


@dataclass(frozen=True)
class Hierarchy:
    """Every key that follows from the owner's BK3 and the device's seeds, in the firmware's forms (spec 04 §6.2)."""

    bk3: bytes
    bks1: bytes
    bks2: bytes

    def partition_backup_key(self, pota_spki: bytes) -> bytes:
        """BK_partition, bound to the POTA key."""
        label = (b"PARTITION_BK" + ecc_spki_to_raw(pota_spki)).ljust(256, b"\0")
        return kbkdf(self.bk3, label, self.bks1 + self.bks2)

    @property
    def session_root(self) -> bytes:
        """BK3_session."""
        return kbkdf(self.bk3, b"SESSION_BK3", b"", 48)

    def session_backup_key(self, seed: bytes) -> bytes:
        """BK_session, bound to the client's seed."""
        return kbkdf(self.session_root, b"SESSION_BK", self.bks1 + self.bks2 + seed)


def p384_shared(scalar: int, peer: ec.EllipticCurvePublicKey) -> bytes:
    """ECDH x coordinate of P-384, 48 bytes."""
    return ec.derive_private_key(scalar, ec.SECP384R1()).exchange(ec.ECDH(), peer)
