# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES keys of the control path: AesGenerateKey, AesEncryptDecrypt (spec 05 §6, §7)."""

from ihsm_abi.aes_queue import AES_BLOCK_BYTES
from ihsm_abi.ddi import (
    AesEncryptDecryptReq,
    AesEncryptDecryptResp,
    AesGenerateKeyReq,
    AesGenerateKeyResp,
    AesOp,
    DdiOp,
    DdiStatus,
    KeyUsage,
)
from ihsm_abi.ddi.formats import AES_KEY_TYPES
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.operations.context import Context
from ihsm_device.hsm.operations.key_use import engine_failure, info_of, may, require_family, require_usage
from ihsm_device.hsm.operations.new_keys import Target, store_key
from ihsm_device.hsm.operations.operation import operation
from ihsm_device.hsm.partition import ExpressKey, NewEntry
from ihsm_device.hsm.wire import TYPES, Dialect, Family


@operation(DdiOp.AesGenerateKey)
def aes_generate_key(context: Context, request: AesGenerateKeyReq) -> AesGenerateKeyResp:
    """Make a random AES key; a bulk key takes any valid usage and is stored with EncryptDecrypt (spec 05 §6)."""
    target = Target.read(request.key_properties, request.key_tag)
    key_type = AES_KEY_TYPES.get(request.key_size)
    if key_type is None:
        raise RefusedError(DdiStatus.InvalidArg)
    info = TYPES[key_type]
    if info.family is Family.AES:
        target.check_usage(Family.AES)
    target.check_tag()
    with engine_failure(DdiStatus.AesGenerateError):
        key = context.scratch(context.store.generate_secret(info.secret_bytes, context.owner(target.scope)))
    stored = store_key(
        context,
        key,
        key_type,
        target.flags(local=True, usage=KeyUsage.EncryptDecrypt),
        tag=target.tag,
        label=target.label,
    )
    return AesGenerateKeyResp(key_id=stored.entry.key_id, bulk_key_id=stored.bulk_key_id, masked_key=stored.masked_key)


def _express(content: NewEntry, _dialect: Dialect) -> ExpressKey | None:
    if info_of(content, Family.AES) is None or not may(content, KeyUsage.EncryptDecrypt):
        return None
    both = frozenset(map(int, AesOp))
    return ExpressKey(DdiOp.AesEncryptDecrypt, both, both)


@operation(DdiOp.AesEncryptDecrypt, express=_express)
def aes_encrypt_decrypt(context: Context, request: AesEncryptDecryptReq) -> AesEncryptDecryptResp:
    """CBC without padding; the returned IV, the last block of ciphertext, continues the chain (spec 05 §7)."""
    if not request.op.known:
        raise RefusedError(DdiStatus.InvalidArg)
    entry = context.find_own(request.key_id)
    require_family(entry, Family.AES)
    require_usage(entry, KeyUsage.EncryptDecrypt)
    if len(request.iv) != AES_BLOCK_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)
    if not request.msg or len(request.msg) % AES_BLOCK_BYTES:
        raise RefusedError(DdiStatus.InvalidArg)

    encrypt = request.op == AesOp.Encrypt
    with engine_failure(DdiStatus.AesEncryptFailed if encrypt else DdiStatus.AesDecryptFailed):
        result = context.store.aes_cbc(entry.content.handle, encrypt=encrypt, iv=request.iv, data=request.msg)
    ciphertext = result if encrypt else request.msg
    return AesEncryptDecryptResp(msg=result, iv=ciphertext[-AES_BLOCK_BYTES:])
