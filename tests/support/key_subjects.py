# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Subjects of the condition tests: operations that use, find, restore and delete keys (spec 05 §7, §9–§14, §16)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm_abi import ddi
from ihsm_abi.ddi import DdiOp, HashAlgorithm, KeyType
from ihsm_abi.ddi.flags import USAGE_FLAGS
from support.faults import Draft, Fault, Subject, fault
from support.hsm import Scene
from support.key_faults import (
    BULK_SLOTS,
    TARGET,
    VAULT,
    decode_faults,
    in_host_form,
    key_faults,
    properties,
    put,
    use_key,
)
from support.keyring import CBC, DERIVE, SIGN, TAG, UNWRAP, arrange, keyring

INTERNAL = ("unwrapping", "masking", "k-sess")
MISSING = {"key-empty": ("empty",), "key-table-not-owned": ("not-owned",)}
P256_PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
FOREIGN_KEY = ec.generate_private_key(ec.SECP256K1())


def subject(
    op: DdiOp,
    inputs: Callable[[Scene], dict[str, Any]],
    request: Callable[[dict[str, Any]], Any],
    *faults: Fault | tuple[Fault, ...],
) -> Subject:
    """A subject whose requests are made in host form."""
    flat = tuple(f for group in faults for f in (group if isinstance(group, tuple) else (group,)))
    return Subject(op, arrange, inputs, in_host_form(request), flat)


def with_key(name: str, field: str = "key_id", **inputs: Any) -> Callable[[Scene], dict[str, Any]]:
    """Inputs of a good command that uses a key of the keyring."""
    return lambda scene: {field: keyring(scene).id(name), **inputs}


def target(inputs: dict[str, Any]) -> dict[str, Any]:
    """Fields that every key-creating request has."""
    return {"key_tag": inputs.get("key_tag"), "key_properties": properties(inputs["flags"])}


AES_ENCRYPT_DECRYPT = subject(
    DdiOp.AesEncryptDecrypt,
    with_key("aes", op=ddi.AesOp.Encrypt, msg=bytes(32), iv=bytes(16)),
    lambda i: ddi.AesEncryptDecryptReq(**i),
    decode_faults({"msg": 1024, "iv": 16}),
    fault("op-unknown", "op", plain=put(op=ddi.AesOp(3))),
    key_faults(
        MISSING
        | {
            "key-internal": INTERNAL,
            "key-other-session": ("other-aes",),
            "key-kind": ("bulk", "rsa-decrypt"),
            "key-kind-other-usage": ("ecc-sign", "secret", "hmac", "rsa-sign", "session-object"),
        }
    ),
    fault("iv-length", "iv", plain=put(iv=bytes(15))),
    fault("iv-length", "iv", plain=put(iv=b"")),
    fault("msg-empty", "msg", plain=put(msg=b"")),
    fault("msg-misaligned-encrypt", "msg", plain=put(msg=bytes(17))),
    fault("msg-misaligned-decrypt", "msg", "op", plain=put(msg=bytes(1023), op=ddi.AesOp.Decrypt)),
)

ECC_SIGN = subject(
    DdiOp.EccSign,
    with_key("ecc-sign", digest=bytes(range(32)), digest_algo=HashAlgorithm.Sha256),
    lambda i: ddi.EccSignReq(**i),
    decode_faults({"digest": 96}),
    key_faults(
        MISSING
        | {
            "key-other-session": ("other-ecc-sign",),
            "key-kind": ("rsa-sign", "hmac"),
            "key-kind-other-usage": ("aes", "bulk", "secret", "rsa-decrypt", "session-object"),
            "key-internal": INTERNAL,
            "key-usage": ("ecc-derive",),
        }
    ),
    fault("digest-empty", "digest", wire=lambda draft: draft.replace(digest=b"")),
    fault("digest-length", "digest", wire=lambda draft: draft.replace(digest=bytes(67))),
    fault("digest-length", "digest", wire=lambda draft: draft.replace(digest=bytes(69))),
    fault("fips-sha1", "fips", arrange=lambda scene: _fips(scene), plain=put(digest_algo=HashAlgorithm.Sha1)),
    *(
        fault(
            "fips-digest-curve",
            "fips",
            "key",
            arrange=lambda scene: _fips(scene),
            plain=lambda draft, key=key, algo=algo: (use_key(key)(draft), put(digest_algo=HashAlgorithm(algo))(draft)),
        )
        for key, algo in (("ecc-sign", 3), ("ecc-sign", 9), ("ecc-sign-384", 4), ("ecc-sign-521", 5))
    ),
)


def _fips(scene: Scene) -> None:
    scene.module.partition.device.fips_approved = True


HMAC = subject(
    DdiOp.Hmac,
    with_key("hmac", msg=b"abc"),
    lambda i: ddi.HmacReq(**i),
    decode_faults({"msg": 1024}),
    key_faults(
        MISSING
        | {
            "key-other-session": ("other-hmac",),
            "key-kind": ("aes", "bulk", "ecc-sign", "ecc-derive", "secret", "rsa-sign", "session-object"),
            "key-internal": INTERNAL,
            "key-usage": ("hmac-derive",),
        }
    ),
)

RSA_MOD_EXP = subject(
    DdiOp.RsaModExp,
    with_key("rsa-decrypt", y=bytes(255) + b"\2", op_type=ddi.RsaOpType.Decrypt),
    lambda i: ddi.RsaModExpReq(**i),
    decode_faults({"y": 512}),
    fault("op-type-unknown", "op", plain=put(op_type=ddi.RsaOpType(3))),
    fault("op-type-unknown", "op", plain=put(op_type=ddi.RsaOpType(0))),
    fault("y-empty", "y", plain=put(y=b"")),
    key_faults(
        MISSING
        | {
            "key-internal": INTERNAL,
            "key-other-session": ("other-rsa",),
            "key-kind": ("aes", "bulk"),
            "key-kind-other-usage": ("ecc-derive", "secret", "session-object", "ecc-sign"),
            "key-usage": ("rsa-sign",),
        }
    ),
    fault("key-usage", "op", plain=put(op_type=ddi.RsaOpType.Sign)),
    fault("y-short", "y", plain=put(y=b"\2" * 255)),
    fault("y-long", "y", plain=put(y=bytes(256) + b"\2")),
    fault("y-small", "y", plain=put(y=bytes(256))),
    fault("y-small", "y", plain=put(y=bytes(255) + b"\1")),
    fault("y-n-minus-1", "y", plain=lambda draft: put(y=_modulus(draft, -1))(draft)),
    fault("y-not-below-n", "y", plain=lambda draft: put(y=_modulus(draft, 0))(draft)),
    fault("y-not-below-n", "y", plain=put(y=b"\xff" * 256)),
)


def _modulus(draft: Draft, offset: int) -> bytes:
    numbers: Any = keyring(draft.scene)["rsa-decrypt"].public_key.public_numbers()  # type: ignore[union-attr]
    return int(numbers.n + offset).to_bytes(256, "big")


def spki(key: ec.EllipticCurvePublicKey, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> bytes:
    """DER of a public key."""
    return key.public_bytes(Encoding.DER, form)


PEER = spki(ec.derive_private_key(5, ec.SECP256R1()).public_key())
OTHER_CURVE = spki(ec.derive_private_key(5, ec.SECP384R1()).public_key())
_HEADER, _POINT = PEER[:27], PEER[27:]
COMPRESSED = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + b"\3" + _POINT[:32]
INFINITY = bytes.fromhex("301a301306072a8648ce3d020106082a8648ce3d0301070303000000")[:26]


def _peer(value: bytes) -> Callable[[Draft], None]:
    return lambda draft: draft.replace(pub_key_der=value)


def _coordinates(x: bytes, y: bytes) -> Callable[[Draft], None]:
    """A P-256 point in the dialect of the device."""

    def change(draft: Draft) -> None:
        virtual = draft.scene.kind is ddi.DeviceKind.Virtual
        draft.replace(pub_key_der=_HEADER + x + y if virtual else x[::-1] + y[::-1])

    return change


_X, _Y = _POINT[:32], _POINT[32:]
_P = P256_PRIME.to_bytes(32, "big")

ECDH = subject(
    DdiOp.EcdhKeyExchange,
    with_key("ecc-derive", "priv_key_id", pub_key_der=PEER, key_type=KeyType.Secret256, flags=USAGE_FLAGS[DERIVE]),
    lambda i: ddi.EcdhKeyExchangeReq(
        priv_key_id=i["priv_key_id"], pub_key_der=i["pub_key_der"], key_type=i["key_type"], **target(i)
    ),
    decode_faults({"pub_key_der": 192}, properties_in=True),
    TARGET,
    key_faults(
        MISSING
        | {
            "key-internal": INTERNAL,
            "key-other-session": ("other-ecc-derive",),
            "key-kind": ("secret",),
            "key-kind-other-usage": ("aes", "bulk", "rsa-sign", "hmac", "session-object"),
            "key-usage": ("ecc-sign",),
        },
        "priv_key_id",
    ),
    fault("key-type-unknown", "type", plain=put(key_type=KeyType(77))),
    fault("key-type-not-a-secret", "type", plain=put(key_type=KeyType.Aes256)),
    fault("key-type-other-size", "type", plain=put(key_type=KeyType.Secret384)),
    fault("peer-no-der", "peer", wire=_peer(b"")),
    fault("peer-no-der", "peer", wire=_peer(PEER[:-1])),
    fault("peer-no-der", "peer", wire=_peer(b"\x30")),
    fault("peer-infinity", "peer", wire=_peer(INFINITY)),
    fault("peer-compressed", "peer", wire=_peer(COMPRESSED)),
    fault("peer-other-curve", "peer", wire=_peer(OTHER_CURVE)),
    fault("peer-foreign-curve", "peer", wire=_peer(spki(FOREIGN_KEY.public_key()))),
    fault("peer-short", "peer", wire=_peer(bytes(63))),
    fault("peer-range", "peer", wire=_coordinates(_P, _Y)),
    fault("peer-range", "peer", wire=_coordinates(_X, _P)),
    fault("peer-range", "peer", wire=_coordinates(bytes(32), _Y)),
    fault("peer-off-curve", "peer", wire=_coordinates(_X, _X)),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[SIGN])),
    VAULT,
)


def derivation(op: DdiOp, request: type[Any], first: str, second: str) -> Subject:
    """HKDF and KBKDF differ in the names of their parameters and in one status."""
    variable = {"key_type": KeyType.VarHmac256, "flags": USAGE_FLAGS[SIGN]}
    lengths = [(KeyType.VarHmac256, 31), (KeyType.VarHmac256, 65), (KeyType.VarHmac384, 47), (KeyType.VarHmac512, 63)]
    beyond = [
        (HashAlgorithm.Sha1, 173),
        (HashAlgorithm.Sha256, 161),
        (HashAlgorithm.Sha384, 129),
        (HashAlgorithm.Sha512, 129),
    ]
    if op == DdiOp.KbkdfCounterHmacDerive:
        beyond.append((HashAlgorithm.Sha256, 0))
    else:
        lengths.append((KeyType.VarHmac256, 0))
    return subject(
        op,
        with_key("secret", hash_algorithm=HashAlgorithm.Sha256, key_type=KeyType.Aes256, flags=USAGE_FLAGS[CBC]),
        lambda i: request(
            key_id=i["key_id"],
            hash_algorithm=i["hash_algorithm"],
            key_type=i["key_type"],
            key_length=i.get("key_length"),
            **target(i),
        ),
        decode_faults({first: 256, second: 256}, properties_in=True),
        TARGET,
        key_faults(
            MISSING
            | {
                "key-internal": INTERNAL,
                "key-other-session": ("other-secret",),
                "key-kind": ("aes", "ecc-derive", "rsa-sign", "hmac", "session-object"),
            }
        ),
        *(
            fault("key-type", "type", "usage", plain=put(key_type=KeyType(value)))
            for value in (0, 1, 9, 16, 19, 28, 29, 33, 0xFFFF)
        ),
        fault("varhmac-without-length", "type", "usage", plain=put(**variable)),
        fault("hash-unknown", "hash", plain=put(hash_algorithm=HashAlgorithm(5))),
        fault("hash-unknown", "hash", plain=put(hash_algorithm=HashAlgorithm(0))),
        *(
            fault("derivation", "hash", "type", plain=put(key_length=n, hash_algorithm=h, key_type=KeyType.VarHmac256))
            for h, n in beyond
        ),
        fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[DERIVE])),
        fault("usage-not-allowed", "usage", "type", plain=put(flags=USAGE_FLAGS[CBC], key_type=KeyType.HmacSha256)),
        fault("usage-not-allowed", "usage", "type", plain=put(flags=USAGE_FLAGS[UNWRAP], key_type=KeyType.HmacSha512)),
        fault(
            "usage-not-allowed-new-type",
            "usage",
            "type",
            plain=put(flags=USAGE_FLAGS[SIGN], key_type=KeyType.AesGcmBulk256),
        ),
        fault(
            "usage-not-allowed-new-type",
            "usage",
            "type",
            plain=put(flags=USAGE_FLAGS[CBC], key_type=KeyType.VarHmac384, key_length=64),
        ),
        *(
            fault("varhmac-length", "type", "usage", plain=put(key_type=t, key_length=n, flags=USAGE_FLAGS[SIGN]))
            for t, n in lengths
        ),
        fault("bulk-slots", "type", "room", plain=put(key_type=KeyType.AesXtsBulk256), late=BULK_SLOTS.late),
        VAULT,
    )


HKDF = derivation(DdiOp.HkdfDerive, ddi.HkdfDeriveReq, "salt", "info")
KBKDF = derivation(DdiOp.KbkdfCounterHmacDerive, ddi.KbkdfCounterHmacDeriveReq, "label", "context")

ATTEST_KEY = subject(
    DdiOp.AttestKey,
    with_key("ecc-sign", report_data=bytes(128)),
    lambda i: ddi.AttestKeyReq(**i),
    decode_faults({"report_data": 128}),
    key_faults(
        MISSING
        | {
            "key-other-session": ("other-ecc-sign", "other-rsa"),
            "key-kind": ("masking", "session-object"),
            "k-sess": ("k-sess",),
        }
    ),
)

DELETE_KEY = subject(
    DdiOp.DeleteKey,
    with_key("aes"),
    lambda i: ddi.DeleteKeyReq(**i),
    decode_faults({}),
    key_faults(
        MISSING | {"key-other-session": ("other-aes",), "session-object": ("session-object",), "internal-key": INTERNAL}
    ),
)


def _tagged(scene: Scene) -> dict[str, Any]:
    assert keyring(scene)["aes-tagged"].key_id
    return {"key_tag": TAG}


OPEN_KEY = subject(
    DdiOp.OpenKey,
    _tagged,
    lambda i: ddi.OpenKeyReq(**i),
    decode_faults({}),
    fault("tag-unknown", "tag", plain=put(key_tag=TAG + 1)),
    fault("tag-zero", "tag", plain=put(key_tag=0)),
)

GET_UNWRAPPING_KEY = subject(
    DdiOp.GetUnwrappingKey, lambda scene: {}, lambda i: ddi.GetUnwrappingKeyReq(), decode_faults({})
)

SUBJECTS = (
    AES_ENCRYPT_DECRYPT,
    ECC_SIGN,
    HMAC,
    RSA_MOD_EXP,
    ECDH,
    HKDF,
    KBKDF,
    ATTEST_KEY,
    DELETE_KEY,
    OPEN_KEY,
    GET_UNWRAPPING_KEY,
)
