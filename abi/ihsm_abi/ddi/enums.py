# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Enumerations of DDI messages (spec 03 §9): u32 on the wire, all open."""

from ihsm_abi.mbor import OpenEnum


class KeyClass(OpenEnum):
    """What a wrapped blob holds."""

    Rsa = 1
    RsaCrt = 2
    Aes = 3
    AesXtsBulk = 4
    AesGcmBulk = 5
    AesGcmBulkUnapproved = 6
    Ecc = 7


class KeyType(OpenEnum):
    """Type of a key; 65535 is internal to the firmware."""

    Rsa2kPrivate = 1
    Rsa3kPrivate = 2
    Rsa4kPrivate = 3
    Rsa2kPrivateCrt = 4
    Rsa3kPrivateCrt = 5
    Rsa4kPrivateCrt = 6
    Ecc256Private = 7
    Ecc384Private = 8
    Ecc521Private = 9
    Aes128 = 10
    Aes192 = 11
    Aes256 = 12
    AesXtsBulk256 = 13
    AesGcmBulk256 = 14
    AesGcmBulk256Unapproved = 15
    Secret256 = 16
    Secret384 = 17
    Secret521 = 18
    Rsa2kPublic = 19
    Rsa3kPublic = 20
    Rsa4kPublic = 21
    Ecc256Public = 22
    Ecc384Public = 23
    Ecc521Public = 24
    HmacSha256 = 25
    HmacSha384 = 26
    HmacSha512 = 27
    AesCbc256Hmac384 = 28
    KbKdfSecretSha384 = 29
    VarHmac256 = 30
    VarHmac384 = 31
    VarHmac512 = 32
    RsaUnwrap = 65535


class KeyUsage(OpenEnum):
    """Usage that a key's flags amount to (spec 03 §11)."""

    SignVerify = 1
    EncryptDecrypt = 2
    Unwrap = 3
    Derive = 4


class KeyAvailability(OpenEnum):
    """Life span of a key."""

    App = 1
    Session = 2


class HashAlgorithm(OpenEnum):
    """Hash function."""

    Sha1 = 1
    Sha256 = 2
    Sha384 = 3
    Sha512 = 4


class AesOp(OpenEnum):
    """Direction of AES-CBC."""

    Encrypt = 1
    Decrypt = 2


class AesKeySize(OpenEnum):
    """Size and purpose of an AES key to generate."""

    Aes128 = 1
    Aes192 = 2
    Aes256 = 3
    AesXtsBulk256 = 4
    AesGcmBulk256 = 5
    AesGcmBulk256Unapproved = 6


class EccCurve(OpenEnum):
    """Elliptic curve."""

    P256 = 1
    P384 = 2
    P521 = 3


class RsaOpType(OpenEnum):
    """What a raw RSA operation is for."""

    Decrypt = 1
    Sign = 2


class RsaCryptoPadding(OpenEnum):
    """Padding of the key-encryption key in a wrapped blob."""

    Oaep = 1


class DeviceKind(OpenEnum):
    """Dialect that the device speaks (spec 03 §6.1)."""

    Virtual = 1
    Physical = 2
