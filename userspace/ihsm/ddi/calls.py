# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a session can be asked for: each operation as one value, to be performed at once or awaited (spec 05 §3).

`Session` has a method for each; a program that has to do the same with and without `await` builds on these. Each is a
step of `ihsm.procedures`.
"""

from __future__ import annotations

from ihsm.ddi.call import Call as Call
from ihsm.ddi.keys import Key, KeyRequest, der_of
from ihsm_abi.ddi import (
    AesEncryptDecryptReq,
    AesEncryptDecryptResp,
    AesGenerateKeyReq,
    AesGenerateKeyResp,
    AesKeySize,
    AesOp,
    AttestKeyReq,
    AttestKeyResp,
    DeleteKeyReq,
    DeleteKeyResp,
    EccCurve,
    EccGenerateKeyPairReq,
    EccGenerateKeyPairResp,
    EccSignReq,
    EccSignResp,
    EcdhKeyExchangeReq,
    EcdhKeyExchangeResp,
    GetUnwrappingKeyReq,
    GetUnwrappingKeyResp,
    HashAlgorithm,
    HkdfDeriveReq,
    HkdfDeriveResp,
    HmacReq,
    HmacResp,
    KbkdfCounterHmacDeriveReq,
    KbkdfCounterHmacDeriveResp,
    KeyClass,
    KeyType,
    OpenKeyReq,
    OpenKeyResp,
    RsaCryptoPadding,
    RsaModExpReq,
    RsaModExpResp,
    RsaOpType,
    RsaUnwrapReq,
    RsaUnwrapResp,
    UnmaskKeyReq,
    UnmaskKeyResp,
)
from ihsm_abi.ddi.formats import AES_KEY_TYPES, ECC_BY_CURVE


def generate_ecc_key(curve: EccCurve, request: KeyRequest) -> Call[Key]:
    """Make an EC key pair (spec 05 §8)."""

    def result(made: EccGenerateKeyPairResp) -> Key:
        return Key(
            key_id=made.private_key_id,
            key_type=ECC_BY_CURVE[curve].private_type,
            public_key_der=made.pub_key.der,
            masked_key=made.masked_key,
        )

    return Call(
        EccGenerateKeyPairReq(curve=curve, key_tag=request.tag, key_properties=request.properties),
        EccGenerateKeyPairResp,
        result,
    )


def generate_aes_key(size: AesKeySize, request: KeyRequest) -> Call[Key]:
    """Make an AES key (spec 05 §6)."""

    def result(made: AesGenerateKeyResp) -> Key:
        return Key(
            key_id=made.key_id,
            key_type=AES_KEY_TYPES[size],
            bulk_key_id=made.bulk_key_id,
            masked_key=made.masked_key,
        )

    return Call(
        AesGenerateKeyReq(key_size=size, key_tag=request.tag, key_properties=request.properties),
        AesGenerateKeyResp,
        result,
    )


def unwrapping_key() -> Call[Key]:
    """The partition's RSA-2048 import key (spec 04 §9.12)."""

    def result(found: GetUnwrappingKeyResp) -> Key:
        return Key(
            key_id=found.key_id,
            key_type=KeyType.Rsa2kPrivate,
            public_key_der=found.pub_key.der,
            masked_key=found.masked_key,
        )

    return Call(GetUnwrappingKeyReq(), GetUnwrappingKeyResp, result)


def rsa_unwrap(
    unwrapping: Key, wrapped_blob: bytes, key_class: KeyClass, request: KeyRequest, hash_algorithm: HashAlgorithm
) -> Call[Key]:
    """Import a wrapped key (spec 05 §12)."""

    def result(made: RsaUnwrapResp) -> Key:
        return Key(made.key_id, made.kind, der_of(made.pub_key), made.bulk_key_id, made.masked_key)

    return Call(
        RsaUnwrapReq(
            key_id=unwrapping.key_id,
            wrapped_blob=wrapped_blob,
            wrapped_blob_key_class=key_class,
            wrapped_blob_padding=RsaCryptoPadding.Oaep,
            wrapped_blob_hash_algorithm=hash_algorithm,
            key_tag=request.tag,
            key_properties=request.properties,
        ),
        RsaUnwrapResp,
        result,
    )


def unmask(masked_key: bytes) -> Call[Key]:
    """Bring a masked key back (spec 05 §16)."""

    def result(made: UnmaskKeyResp) -> Key:
        return Key(made.key_id, made.kind, der_of(made.pub_key), made.bulk_key_id, made.masked_key)

    return Call(UnmaskKeyReq(masked_key=masked_key), UnmaskKeyResp, result)


def open_key(tag: int) -> Call[Key]:
    """Find an application key by its tag (spec 04 §9.15)."""

    def result(found: OpenKeyResp) -> Key:
        return Key(found.key_id, found.key_kind, der_of(found.pub_key), found.bulk_key_id)

    return Call(OpenKeyReq(key_tag=tag), OpenKeyResp, result)


def attest(key: Key, report_data: bytes) -> Call[bytes]:
    """Attestation report over a key (spec 05 §14)."""
    return Call(AttestKeyReq(key_id=key.key_id, report_data=report_data), AttestKeyResp, lambda made: made.report)


def delete_key(key: Key) -> Call[None]:
    """Delete a key (spec 04 §9.15)."""
    return Call(DeleteKeyReq(key_id=key.key_id), DeleteKeyResp, lambda _: None)


def ecc_sign(key: Key, number: bytes, label: HashAlgorithm) -> Call[bytes]:
    """ECDSA over a number (spec 05 §9)."""
    return Call(
        EccSignReq(key_id=key.key_id, digest=number, digest_algo=label), EccSignResp, lambda made: made.signature
    )


def rsa_mod_exp(key: Key, y: bytes, op_type: RsaOpType) -> Call[bytes]:
    """Raw RSA private operation (spec 05 §12.2)."""
    return Call(RsaModExpReq(key_id=key.key_id, y=y, op_type=op_type), RsaModExpResp, lambda made: made.x)


def aes_cbc(key: Key, op: AesOp, data: bytes, iv: bytes) -> Call[tuple[bytes, bytes]]:
    """AES-CBC over what one command takes (spec 05 §7): the result, and the IV that continues the chain."""
    return Call(
        AesEncryptDecryptReq(key_id=key.key_id, op=op, msg=data, iv=iv),
        AesEncryptDecryptResp,
        lambda made: (made.msg, made.iv),
    )


def hmac(key: Key, message: bytes) -> Call[bytes]:
    """HMAC (spec 05 §12.1)."""
    return Call(HmacReq(key_id=key.key_id, msg=message), HmacResp, lambda made: made.tag)


def ecdh(key: Key, peer_spki: bytes, key_type: KeyType, request: KeyRequest) -> Call[Key]:
    """ECDH into a key of the device (spec 05 §10)."""
    return Call(
        EcdhKeyExchangeReq(
            priv_key_id=key.key_id,
            pub_key_der=peer_spki,
            key_type=key_type,
            key_tag=request.tag,
            key_properties=request.properties,
        ),
        EcdhKeyExchangeResp,
        lambda made: Key(made.key_id, key_type, masked_key=made.masked_key),
    )


def hkdf(
    secret: Key,
    hash_algorithm: HashAlgorithm,
    key_type: KeyType,
    request: KeyRequest,
    *,
    salt: bytes | None,
    info: bytes | None,
    key_length: int | None,
) -> Call[Key]:
    """HKDF into a key of the device (spec 05 §11)."""
    return Call(
        HkdfDeriveReq(
            key_id=secret.key_id,
            hash_algorithm=hash_algorithm,
            salt=salt,
            info=info,
            key_type=key_type,
            key_tag=request.tag,
            key_properties=request.properties,
            key_length=key_length,
        ),
        HkdfDeriveResp,
        lambda made: Key(made.key_id, key_type, bulk_key_id=made.bulk_key_id, masked_key=made.masked_key),
    )


def kbkdf(
    secret: Key,
    hash_algorithm: HashAlgorithm,
    key_type: KeyType,
    request: KeyRequest,
    *,
    label: bytes | None,
    context: bytes | None,
    key_length: int | None,
) -> Call[Key]:
    """KBKDF in counter mode into a key of the device (spec 05 §11)."""
    return Call(
        KbkdfCounterHmacDeriveReq(
            key_id=secret.key_id,
            hash_algorithm=hash_algorithm,
            label=label,
            context=context,
            key_type=key_type,
            key_tag=request.tag,
            key_properties=request.properties,
            key_length=key_length,
        ),
        KbkdfCounterHmacDeriveResp,
        lambda made: Key(made.key_id, key_type, bulk_key_id=made.bulk_key_id, masked_key=made.masked_key),
    )
