# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operations of a session that make, find, restore, attest and delete keys (spec 05 §6, §8, §12-§16)."""

import time
from typing import Final

from ihsm.arguments import checked
from ihsm.ddi import calls
from ihsm.ddi.call import Procedure, ask
from ihsm.ddi.channel import InSession
from ihsm.ddi.errors import StatusError
from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.wrapping import wrap_key
from ihsm.errors import ArgumentError
from ihsm.procedures import Pause, operation
from ihsm_abi.ddi import AesKeySize, DdiStatus, EccCurve, HashAlgorithm, KeyClass
from ihsm_abi.ddi.limits import WRAPPED_BLOB_MAX_BYTES

_PENDING_INTERVAL_S: Final = 0.05


class KeyOperations(InSession):
    """Key management; every method raises StatusError with the device's status."""

    @operation
    @checked
    def generate_ecc_key(self, curve: EccCurve, request: KeyRequest) -> Procedure[Key]:
        """Make an EC key pair for SignVerify or Derive."""
        return ask(calls.generate_ecc_key(curve, request))

    @operation
    @checked
    def generate_aes_key(self, size: AesKeySize, request: KeyRequest) -> Procedure[Key]:
        """Make an AES key for EncryptDecrypt; bulk sizes serve the AES queues."""
        return ask(calls.generate_aes_key(size, request))

    @operation
    @checked
    def unwrapping_key(self, *, wait_s: float = 0) -> Procedure[Key]:
        """The partition's RSA-2048 import key; ask again for up to `wait_s` seconds while firmware still makes it."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return (yield from ask(calls.unwrapping_key()))
            except StatusError as error:
                if error.status != DdiStatus.PendingKeyGeneration or time.monotonic() > deadline:
                    raise
            yield Pause(_PENDING_INTERVAL_S)

    @operation
    @checked
    def rsa_unwrap(
        self,
        unwrapping_key: Key,
        wrapped_blob: bytes,
        key_class: KeyClass,
        request: KeyRequest,
        *,
        hash_algorithm: HashAlgorithm = HashAlgorithm.Sha256,
    ) -> Procedure[Key]:
        """Import a wrapped key (see `ihsm.ddi.wrapping`); `hash_algorithm` is that of its OAEP part."""
        return ask(calls.rsa_unwrap(unwrapping_key, wrapped_blob, key_class, request, hash_algorithm))

    @operation
    @checked
    def import_key(
        self,
        payload: bytes,
        key_class: KeyClass,
        request: KeyRequest,
        *,
        hash_algorithm: HashAlgorithm = HashAlgorithm.Sha256,
    ) -> Procedure[Key]:
        """Wrap a key on this host for the partition's unwrapping key and import it.

        Args:
            payload: PKCS#8 DER of an RSA or EC private key, or the bytes of an AES key.
            key_class: What `payload` holds and what it becomes.
            request: Purpose of the key.
            hash_algorithm: Hash of the OAEP wrapping.

        Raises:
            ArgumentError: the wrapped key would exceed what a request can carry.
        """
        unwrapping_key = yield from ask(calls.unwrapping_key())
        blob = wrap_key(payload, unwrapping_key.public_key, hash_algorithm)
        if len(blob) > WRAPPED_BLOB_MAX_BYTES:
            problem = f"wrapped key: {len(blob)} bytes, at most {WRAPPED_BLOB_MAX_BYTES}"
            raise ArgumentError("import_key", "payload", problem)
        return (yield from ask(calls.rsa_unwrap(unwrapping_key, blob, key_class, request, hash_algorithm)))

    @operation
    @checked
    def unmask(self, masked_key: bytes) -> Procedure[Key]:
        """Bring a masked key back into the device, under a new id."""
        return ask(calls.unmask(masked_key))

    @operation
    @checked
    def open_key(self, tag: int) -> Procedure[Key]:
        """Find an application key by its tag."""
        return ask(calls.open_key(tag))

    @operation
    @checked
    def attest(self, key: Key, report_data: bytes) -> Procedure[bytes]:
        """Attestation report over a key and up to 128 bytes of the caller's; see `ihsm.ddi.attestation`."""
        return ask(calls.attest(key, report_data))

    @operation
    @checked
    def delete_key(self, key: Key) -> Procedure[None]:
        """Delete a key."""
        return ask(calls.delete_key(key))
