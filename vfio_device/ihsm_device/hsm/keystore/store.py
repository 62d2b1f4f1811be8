# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The native key store: typed handles to keys that never leave it.

All key material, symmetric and private, is generated, imported, used, masked and wiped in C, inside a locked and
wiping memory arena; Python holds `Handle` integers. No method returns secret bytes, except `hook_reveal`, which works
only in a store opened with `validation_hooks=True`.

Conventions, everywhere in this module:

* Byte strings are big-endian and canonical: an EC point is `04 || X || Y` (SEC 1 uncompressed, coordinates of 32, 48 or
  66 bytes), an ECDSA signature is `r || s` with halves of the coordinate size, an RSA number has the modulus length.
  The dialects of the wire (raw little-endian, SubjectPublicKeyInfo) are the business of the caller.
* Every method may raise `StaleHandleError` (the key was destroyed), `WrongKindError` (an RSA handle where an EC key is
  needed, ...), `KeyStoreMemoryError`, `CryptoFailureError` (the library refused an operation for no documented reason)
  and `ArgumentError` (lengths outside what the method documents). Further errors are listed at each method.
* Methods may be called from any thread at once. The interpreter lock is released during a call; operations on a key
  that is destroyed meanwhile finish, the key is wiped when the last of them ends.
* New keys belong to an `Owner`; `destroy_group` destroys by owner.
"""

from __future__ import annotations

import logging
import os
from typing import Final

from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi.limits import CREDENTIAL_ID_BYTES
from ihsm_abi.ddi.masked_key import CBC_TAG_BYTES
from ihsm_device._native import ffi, lib
from ihsm_device.hsm.keystore.algorithms import Algorithms
from ihsm_device.hsm.keystore.bulk import BulkTable
from ihsm_device.hsm.keystore.native import check, check_file, new_handle, pack_group, pack_owner, require_length, taken
from ihsm_device.hsm.keystore.types import (
    ArgumentError,
    Credential,
    CredentialCheck,
    Curve,
    Handle,
    Kind,
    Owner,
    Scope,
    Statistics,
)

_log = logging.getLogger(__name__)

_MAX_SECRET_BYTES: Final[int] = lib.KS_MAX_SECRET
_MAX_ENCRYPTED_BYTES: Final = _MAX_SECRET_BYTES + 31
_MAX_SEALED_BYTES: Final[int] = lib.KS_MAX_SECRET + lib.KS_SEAL_OVERHEAD


class KeyStore(Algorithms):
    """The key store of this process; only one can be open at a time."""

    def __init__(self, *, validation_hooks: bool = False, fault_injection: bool = False) -> None:
        """Open the store: arena, memory locks, process made non-dumpable.

        `validation_hooks` enables the `hook_*` methods, `fault_injection` `set_fault`; both are fixed until `close`.
        Raises `RuntimeError` if a store is open already.
        """
        if lib.ks_open(validation_hooks, fault_injection) != lib.KS_OK:
            raise RuntimeError("a key store is open in this process already")
        self._validation_hooks = validation_hooks
        self._self_tests = tuple(
            ffi.string(lib.ks_self_test_name(index)).decode() for index in range(lib.ks_self_test_count())
        )
        self._warned = False
        self.check_memory()

    def close(self) -> None:
        """Destroy and wipe every key, whoever owns it. The store can then be opened anew."""
        lib.ks_close()

    @staticmethod
    def library_version() -> str:
        """Name and version of the crypto library that is linked in."""
        return ffi.string(lib.ks_library_version()).decode()

    @property
    def validation_hooks(self) -> bool:
        """Whether the `hook_*` methods work; shown in the device's status."""
        return self._validation_hooks

    def statistics(self) -> Statistics:
        """Memory and population at this moment."""
        out = ffi.new("ks_stats *")
        lib.ks_statistics(out)
        return Statistics(*(int(getattr(out, name)) for name in Statistics._fields))

    def check_memory(self) -> None:
        """Warn when key memory has come up that the system does not let be locked; cheap, for after each command."""
        unlocked = int(lib.ks_unlocked_bytes())
        if unlocked and not self._warned:
            _log.warning("%d KiB of key memory are not locked: raise the memlock limit (ulimit -l)", unlocked >> 10)
        self._warned = bool(unlocked)

    # -- handles -------------------------------------------------------------------------------------------------

    def destroy(self, key: Handle) -> None:
        """Destroy a key; wiped at once, or when the last operation in flight on it ends."""
        check(lib.ks_destroy(key))

    def destroy_group(
        self, *, function: int | None = None, scope: Scope | None = None, session: int | None = None
    ) -> int:
        """Destroy every key whose owner matches all given tags; returns how many. Without tags: all keys."""
        return int(lib.ks_destroy_group(*pack_group(function, scope, session)))

    def set_owner(self, key: Handle, owner: Owner) -> None:
        """Give a key to another owner, e.g. a decrypted PIN to the partition once it is accepted."""
        check(lib.ks_set_owner(key, pack_owner(owner)))

    def kind(self, key: Handle) -> Kind:
        """What the handle refers to."""
        return Kind(self._describe(key)[0])

    def size(self, key: Handle) -> int:
        """Bytes of a secret, coordinate size of an EC key, modulus length of an RSA key."""
        return self._describe(key)[1]

    # -- secrets -------------------------------------------------------------------------------------------------

    def random(self, length: int) -> bytes:
        """Public random bytes (nonces, IVs, serial numbers), 0..65536."""
        out = ffi.new("uint8_t[]", max(length, 1))
        check(lib.ks_random(out, length))
        return bytes(ffi.buffer(out, length))

    def generate_secret(self, length: int, owner: Owner) -> Handle:
        """A fresh random secret of 1..4096 bytes: AES and HMAC keys, masking-key seeds, device secrets."""
        out = new_handle()
        return taken(lib.ks_generate_secret(length, pack_owner(owner), out), out)

    def import_secret(self, value: bytes, owner: Owner) -> Handle:
        """Copy bytes that the wire delivered in clear (BK3, hook imports) into the store; 1..4096 bytes."""
        out = new_handle()
        return taken(lib.ks_import_secret(value, len(value), pack_owner(owner), out), out)

    def slice(self, key: Handle, offset: int, length: int, owner: Owner) -> Handle:
        """Bytes `offset` to `offset + length - 1` of a secret as a new secret."""
        out = new_handle()
        return taken(lib.ks_slice(key, offset, length, pack_owner(owner), out), out)

    def secrets_equal(self, first: Handle, second: Handle) -> bool:
        """Constant-time comparison of two secrets; different lengths are unequal."""
        equal = ffi.new("int *")
        check(lib.ks_secrets_equal(first, second, equal))
        return bool(equal[0])

    def is_zero(self, key: Handle) -> bool:
        """Whether every byte of a secret is 0, in constant time."""
        zero = ffi.new("int *")
        check(lib.ks_is_zero(key, zero))
        return bool(zero[0])

    # -- masked keys (spec 04 §7, 03 §12) ------------------------------------------------------------------------

    def masked_plaintext_size(self, key: Handle) -> int:
        """Bytes of the key as serialised into a masked blob, before fill (spec 05 §5.6, FW column).

        Secrets: their length; EC: d, x, y little-endian (96, 144, 204); RSA: d, n, e (516, 772, 1028), with CRT
        p, q, dp, dq, n, n1q, n2p, e (1284, 1924, 2564).
        """
        size = ffi.new("size_t *")
        check(lib.ks_serialised_size(key, size))
        return int(size[0])

    def mask(self, key: Handle, masking_key: Handle, prefix: bytes, iv: bytes, encrypted_size: int) -> bytes:
        """Seal a key: `prefix || AES-256-CBC(masking_key[0:32], iv, plaintext || zeros) || HMAC-SHA-384`.

        `prefix` is everything before the encrypted key (headers, IV, metadata, pads); `encrypted_size` is a multiple
        of 16, at least the plaintext size and at most 31 bytes more. The tag covers all preceding bytes. Raises
        `KeySizeError` unless the masking key has 80 bytes.
        """
        require_length("iv", iv, AES_BLOCK_BYTES)
        if not 0 < encrypted_size <= _MAX_ENCRYPTED_BYTES:
            raise ArgumentError(f"encrypted_size {encrypted_size} is not in 1..{_MAX_ENCRYPTED_BYTES}")
        size = len(prefix) + encrypted_size + CBC_TAG_BYTES
        out = ffi.new("uint8_t[]", size)
        check(lib.ks_mask(key, masking_key, prefix, len(prefix), iv, encrypted_size, out))
        return bytes(ffi.buffer(out, size))

    def verify_masked(self, masking_key: Handle, blob: bytes) -> bool:
        """Whether the last 48 bytes are the tag over the bytes before them; False too if the key is not 80 bytes."""
        valid = ffi.new("int *")
        check(lib.ks_verify_masked(masking_key, blob, len(blob), valid))
        return bool(valid[0])

    def unmask_secret(
        self, masking_key: Handle, blob: bytes, iv: bytes, offset: int, encrypted_size: int, length: int, owner: Owner
    ) -> Handle:
        """Verify a blob and decrypt `blob[offset:offset+encrypted_size]`; its first `length` bytes become a secret.

        Raises `AuthenticationError` (tag), `DecodeError` (sizes that do not fit).
        """
        return self._unmask(masking_key, blob, iv, offset, encrypted_size, Kind.SECRET, length, owner)

    def unmask_ec(
        self, masking_key: Handle, blob: bytes, iv: bytes, offset: int, encrypted_size: int, curve: Curve, owner: Owner
    ) -> Handle:
        """As `unmask_secret`, for an EC key. Also `DecodeError` if the plaintext is no key of the curve."""
        return self._unmask(masking_key, blob, iv, offset, encrypted_size, Kind.EC, curve, owner)

    def unmask_rsa(
        self,
        masking_key: Handle,
        blob: bytes,
        iv: bytes,
        offset: int,
        encrypted_size: int,
        bits: int,
        crt: bool,
        owner: Owner,
    ) -> Handle:
        """As `unmask_secret`, for an RSA key. Also `DecodeError` if the plaintext is no RSA key of the size."""
        kind = Kind.RSA_CRT if crt else Kind.RSA
        return self._unmask(masking_key, blob, iv, offset, encrypted_size, kind, bits, owner)

    def _unmask(
        self,
        masking_key: Handle,
        blob: bytes,
        iv: bytes,
        offset: int,
        encrypted_size: int,
        kind: Kind,
        param: int,
        owner: Owner,
    ) -> Handle:
        """`param`: length of a secret, curve, modulus bits."""
        require_length("iv", iv, AES_BLOCK_BYTES)
        buffers = ffi.from_buffer("uint8_t[]", blob), ffi.from_buffer("uint8_t[]", iv)
        masked = ffi.new("ks_masked *", (buffers[0], len(blob), buffers[1], offset, encrypted_size))
        out = new_handle()
        return taken(lib.ks_unmask(masking_key, masked, kind, param, pack_owner(owner), out), out)

    # -- credentials (spec 04 §5) --------------------------------------------------------------------------------

    def credential_channel(self, key: Handle, peer: bytes, nonce: bytes, owner: Owner) -> Handle:
        """ECDH P-384, then HKDF-SHA-384(salt empty, info = nonce): 80 bytes AES_K || MAC_K, as a new secret.

        Raises as `ec_check_point`.
        """
        out = new_handle()
        return taken(lib.ks_credential_channel(key, peer, len(peer), nonce, len(nonce), pack_owner(owner), out), out)

    def credential_verify(self, channel: Handle, message: bytes, tag: bytes) -> bool:
        """Whether `tag` (48 bytes) is HMAC-SHA-384(MAC_K, message), in constant time."""
        valid = ffi.new("int *")
        check(lib.ks_credential_verify(channel, message, len(message), tag, len(tag), valid))
        return bool(valid[0])

    def credential_decrypt(self, channel: Handle, iv: bytes, ciphertext: bytes, owner: Owner) -> Credential:
        """AES-256-CBC under AES_K of 16 (PIN), 32 (id, PIN) or 80 bytes (id, PIN, seed), each part a new secret.

        An id may be read back with `credential_id`, for attestation reports carry it; PIN and seed cannot.
        """
        require_length("iv", iv, AES_BLOCK_BYTES)
        out = ffi.new("uint64_t[]", 3)
        check(
            lib.ks_credential_decrypt(
                channel, iv, ciphertext, len(ciphertext), pack_owner(owner), out, out + 1, out + 2
            )
        )
        return Credential(Handle(out[0]) if out[0] else None, Handle(out[1]), Handle(out[2]) if out[2] else None)

    def credential_id(self, key: Handle) -> bytes:
        """The 16 bytes of a credential id. Raises `WrongKindError` for any other secret."""
        out = ffi.new("uint8_t[]", CREDENTIAL_ID_BYTES)
        check(lib.ks_credential_id(key, out))
        return bytes(ffi.buffer(out))

    def credential_check(self, stored: Credential, presented: Credential) -> CredentialCheck:
        """Judge a presented id and PIN against the stored ones, in constant time; seeds are not looked at."""
        verdict = ffi.new("int *")
        check(lib.ks_credential_check(stored.id or 0, stored.pin, presented.id or 0, presented.pin, verdict))
        return CredentialCheck(verdict[0])

    # -- state at rest -------------------------------------------------------------------------------------------

    def seal(self, key: Handle, sealing_key: Handle, associated_data: bytes) -> bytes:
        """Encrypt a key of any kind for storage: AES-256-GCM under a 32-byte secret, random 96-bit nonce.

        The blob carries the kind; the owner is not stored.
        """
        out, size = ffi.new("uint8_t[]", _MAX_SEALED_BYTES), ffi.new("size_t *")
        check(lib.ks_seal(key, sealing_key, associated_data, len(associated_data), out, size))
        return bytes(ffi.buffer(out, size[0]))

    def unseal(self, blob: bytes, sealing_key: Handle, associated_data: bytes, owner: Owner) -> Handle:
        """Undo `seal`. Raises `AuthenticationError`, `DecodeError`."""
        out = new_handle()
        status = lib.ks_unseal(
            blob, len(blob), sealing_key, associated_data, len(associated_data), pack_owner(owner), out
        )
        return taken(status, out)

    def create_device_secret(self, path: str, owner: Owner) -> Handle:
        """Make a 48-byte device-unique secret and write it to a new file of mode 0600, atomically and durably.

        Raises `StateFileError`; `FileExistsError` if the file is there.
        """
        out, error = new_handle(), ffi.new("int *")
        check_file(lib.ks_create_device_secret(os.fsencode(path), pack_owner(owner), out, error), error[0], path)
        return Handle(out[0])

    def load_device_secret(self, path: str, owner: Owner) -> Handle:
        """Read the secret back. Raises `FileNotFoundError`, `StatePermissionError`, `StateFileError`."""
        out, error = new_handle(), ffi.new("int *")
        check_file(lib.ks_load_device_secret(os.fsencode(path), pack_owner(owner), out, error), error[0], path)
        return Handle(out[0])

    # -- fast path -----------------------------------------------------------------------------------------------

    def bulk_table(self, function: int) -> BulkTable:
        """A new, empty table of fast-path keys for a function."""
        return BulkTable(function)

    # -- self-tests, faults, hooks -------------------------------------------------------------------------------

    def self_test_names(self) -> tuple[str, ...]:
        """The known-answer tests, in the order in which they run."""
        return self._self_tests

    def self_test(self, name: str) -> bool:
        """Run one known-answer test natively; False if the answer is wrong."""
        passed = ffi.new("int *")
        check(lib.ks_self_test(self._self_tests.index(name), passed))
        return bool(passed[0])

    def set_fault(self, name: str, count: int) -> None:
        """Make the next `count` runs (-1: all) of a test fail: a self-test name, `pct-ec` or `pct-rsa`.

        Raises `HooksDisabledError` unless the store was opened with `fault_injection`.
        """
        check(lib.ks_set_fault(name.encode(), count))

    def hook_push_random(self, value: bytes) -> None:
        """Queue bytes that the next draws of randomness return, one queued value per draw of exactly its length.

        A draw is one call of `random` or `generate_secret`, the scalar of one `ec_generate`, the nonce of one `seal`;
        an empty queue gives true randomness. A draw of another length raises `ArgumentError`.
        Raises `HooksDisabledError` without `validation_hooks`.
        """
        check(lib.ks_hook_push_random(value, len(value)))

    def hook_reveal(self, key: Handle) -> bytes:
        """A key in the clear, serialised as for masking. Raises `HooksDisabledError` without `validation_hooks`."""
        out, size = ffi.new("uint8_t[]", _MAX_SECRET_BYTES), ffi.new("size_t *")
        check(lib.ks_hook_reveal(key, out, size))
        return bytes(ffi.buffer(out, size[0]))

    def hook_aes_ecb_decrypt(self, key: Handle, data: bytes) -> bytes:
        """AES-ECB decryption of whole blocks. Raises `HooksDisabledError` without `validation_hooks`."""
        out = ffi.new("uint8_t[]", max(len(data), 1))
        check(lib.ks_hook_aes_ecb_decrypt(key, data, len(data), out))
        return bytes(ffi.buffer(out, len(data)))
