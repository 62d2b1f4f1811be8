# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Steps with AES keys: CBC through the HSM queue, GCM and XTS through an AES queue (spec 05 §6, §7, §17)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm.ddi import Key
from ihsm.errors import AuthenticationFailedError
from ihsm.selftest.bench import ENCRYPT, Bench, CheckError, check, check_equal
from ihsm_abi.aes_queue import AES_BLOCK_BYTES, GCM_IV_BYTES, GCM_TAG_BYTES
from ihsm_abi.ddi import AesKeySize, AesOp, KeyClass
from ihsm_abi.ddi.limits import AES_CBC_MAX_BYTES

_BULK_KEY_BYTES: Final = 32
_UNIT_BYTES: Final = 512
_GENERATED: Final = {16: AesKeySize.Aes128, 24: AesKeySize.Aes192, 32: AesKeySize.Aes256}


def check_cbc(bench: Bench, key: Key, secret: bytes, size_bytes: int) -> None:
    """Encrypt and decrypt with a key whose value is known here."""
    data, iv = os.urandom(size_bytes), os.urandom(AES_BLOCK_BYTES)
    expected = Cipher(algorithms.AES(secret), modes.CBC(iv)).encryptor().update(data)
    ciphertext, next_iv = bench.session.aes_cbc(key, AesOp.Encrypt, data, iv)
    check_equal("the ciphertext", ciphertext, expected)
    check_equal("the chained IV", next_iv, expected[-AES_BLOCK_BYTES:])
    check_equal("the decrypted text", bench.session.aes_cbc(key, AesOp.Decrypt, expected, iv)[0], data)


def aes_cbc(key_bytes: int, bench: Bench) -> str:
    """AesEncryptDecrypt with an imported key against the other library, with a generated one there and back."""
    secret, size_bytes = os.urandom(key_bytes), 2 * AES_CBC_MAX_BYTES
    check_cbc(bench, bench.import_key(secret, KeyClass.Aes, ENCRYPT), secret, size_bytes)
    generated = bench.keep(bench.session.generate_aes_key(_GENERATED[key_bytes], ENCRYPT))
    data, iv = os.urandom(size_bytes), os.urandom(AES_BLOCK_BYTES)
    ciphertext, _ = bench.session.aes_cbc(generated, AesOp.Encrypt, data, iv)
    check(ciphertext != data, "the ciphertext is the plaintext")
    check_equal("the decrypted text", bench.session.aes_cbc(generated, AesOp.Decrypt, ciphertext, iv)[0], data)
    return f"{size_bytes} bytes with an imported and a generated key"


def check_gcm(bench: Bench, key: Key, secret: bytes | None) -> None:
    """Encrypt and decrypt in an AES queue; compare with the other library where the key is known here."""
    queue, number = bench.aes_queue, _bulk_number(key)
    text, aad, iv = os.urandom(1000), os.urandom(20), os.urandom(GCM_IV_BYTES)
    sealed = queue.gcm_encrypt(bench.fast_path, number, text, aad=aad, iv=iv, timeout_s=bench.timeout_s)
    if secret is not None:
        expected = AESGCM(secret).encrypt(sealed.iv, text, aad)
        check_equal("the ciphertext", sealed.ciphertext, expected[:-GCM_TAG_BYTES])
        check_equal("the tag", sealed.tag, expected[-GCM_TAG_BYTES:])

    def decrypt(tag: bytes) -> bytes:
        output = queue.gcm_decrypt(
            bench.fast_path, number, sealed.ciphertext, tag, sealed.iv, aad=aad, timeout_s=bench.timeout_s
        )
        return output.data

    check_equal("the decrypted text", decrypt(sealed.tag), text)
    try:
        decrypt(bytes([sealed.tag[0] ^ 1]) + sealed.tag[1:])
    except AuthenticationFailedError:
        return
    raise CheckError("a wrong tag is accepted")


def aes_gcm(bench: Bench) -> str:
    """AES-GCM in an AES queue, with imported keys against the other library, with generated ones there and back."""
    for key_class in (KeyClass.AesGcmBulk, KeyClass.AesGcmBulkUnapproved):
        secret = os.urandom(_BULK_KEY_BYTES)
        check_gcm(bench, bench.import_key(secret, key_class, ENCRYPT), secret)
    for size in (AesKeySize.AesGcmBulk256, AesKeySize.AesGcmBulk256Unapproved):
        check_gcm(bench, bench.keep(bench.session.generate_aes_key(size, ENCRYPT)), None)
    return "1000 bytes with 20 of AAD; a wrong tag is refused"


def aes_xts(bench: Bench) -> str:
    """AES-XTS in an AES queue, as for GCM."""
    secrets = os.urandom(_BULK_KEY_BYTES), os.urandom(_BULK_KEY_BYTES)
    first, second = (bench.import_key(secret, KeyClass.AesXtsBulk, ENCRYPT) for secret in secrets)
    data, tweak = os.urandom(4 * _UNIT_BYTES), os.urandom(AES_BLOCK_BYTES)
    expected = b"".join(_xts_unit(secrets, tweak, number, data) for number in range(4))
    check_equal("the ciphertext", _xts(bench, first, second, tweak, data, decrypt=False), expected)
    check_equal("the decrypted text", _xts(bench, first, second, tweak, expected, decrypt=True), data)
    third, fourth = (bench.keep(bench.session.generate_aes_key(AesKeySize.AesXtsBulk256, ENCRYPT)) for _ in range(2))
    ciphertext = _xts(bench, third, fourth, tweak, data, decrypt=False)
    check(ciphertext not in (data, expected), "generated keys encrypt as no or as other keys")
    check_equal("the decrypted text", _xts(bench, third, fourth, tweak, ciphertext, decrypt=True), data)
    return f"4 units of {_UNIT_BYTES} bytes"


def _xts(bench: Bench, first: Key, second: Key, tweak: bytes, data: bytes, *, decrypt: bool) -> bytes:
    numbers = _bulk_number(first), _bulk_number(second)
    output = bench.aes_queue.xts(
        bench.fast_path, numbers, tweak, data, decrypt=decrypt, data_unit_bytes=_UNIT_BYTES, timeout_s=bench.timeout_s
    )
    return output.data


def _xts_unit(secrets: tuple[bytes, bytes], tweak: bytes, number: int, data: bytes) -> bytes:
    """Ciphertext of one data unit; its tweak is the first one plus its number, little-endian."""
    value = (int.from_bytes(tweak, "little") + number) % (1 << 128)
    mode = modes.XTS(value.to_bytes(AES_BLOCK_BYTES, "little"))
    unit = data[number * _UNIT_BYTES :][:_UNIT_BYTES]
    return Cipher(algorithms.AES(b"".join(secrets)), mode).encryptor().update(unit)


def _bulk_number(key: Key) -> int:
    if key.bulk_key_id is None:
        raise CheckError("a bulk key came without its number for the AES queues")
    return key.bulk_key_id


STEPS: Final[tuple[tuple[str, Callable[[Bench], str]], ...]] = (
    *((f"aes-{8 * size}-cbc", partial(aes_cbc, size)) for size in _GENERATED),
    ("aes-gcm", aes_gcm),
    ("aes-xts", aes_xts),
)
