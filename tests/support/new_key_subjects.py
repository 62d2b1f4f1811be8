# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Subjects of the condition tests: operations that generate, import and unmask keys (spec 05 §6, §8, §12.4, §16.3)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from ihsm.ddi.wrapping import HASHES
from ihsm_abi import ddi
from ihsm_abi.ddi import AesKeySize, DdiOp, EccCurve, HashAlgorithm, KeyClass, RsaCryptoPadding
from ihsm_abi.ddi.flags import USAGE_FLAGS
from ihsm_device.hsm.wire import der
from support.faults import Draft, Fault, fault
from support.hsm import Scene
from support.key_faults import BULK_SLOTS, TARGET, VAULT, decode_faults, key_faults, properties, put
from support.key_subjects import MISSING, subject, target
from support.keyring import CBC, DERIVE, PAYLOADS, SIGN, UNWRAP, keyring

AES_GENERATE_KEY = subject(
    DdiOp.AesGenerateKey,
    lambda scene: {"key_size": AesKeySize.Aes256, "flags": USAGE_FLAGS[CBC]},
    lambda i: ddi.AesGenerateKeyReq(key_size=i["key_size"], **target(i)),
    decode_faults({}, properties_in=True),
    TARGET,
    fault("key-size-unknown", "size", plain=put(key_size=AesKeySize(7))),
    fault("key-size-unknown", "size", plain=put(key_size=AesKeySize(0))),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[SIGN])),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[DERIVE])),
    fault("bulk-slots", "size", "room", plain=put(key_size=AesKeySize.AesXtsBulk256), late=BULK_SLOTS.late),
    VAULT,
)

ECC_GENERATE_KEY_PAIR = subject(
    DdiOp.EccGenerateKeyPair,
    lambda scene: {"curve": EccCurve.P256, "flags": USAGE_FLAGS[SIGN]},
    lambda i: ddi.EccGenerateKeyPairReq(curve=i["curve"], **target(i)),
    decode_faults({}, properties_in=True),
    TARGET,
    fault("curve-unknown", "curve", plain=put(curve=EccCurve(4))),
    fault("curve-unknown", "curve", plain=put(curve=EccCurve(0))),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[CBC])),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[UNWRAP])),
    VAULT,
)


# -- RsaUnwrap ---------------------------------------------------------------------------------------------------------


def _import_inputs(scene: Scene) -> dict[str, Any]:
    return {
        "key_id": keyring(scene).id("unwrapping"),
        "public": keyring(scene).session.unwrapping_key().public_key,
        "payload": PAYLOADS["ecc-p256"],
        "key_class": KeyClass.Ecc,
        "padding": RsaCryptoPadding.Oaep,
        "oaep_hash": HashAlgorithm.Sha256,
        "hash": HashAlgorithm.Sha256,
        "label": None,
        "kek": bytes(range(32)),
        "wrap": aes_key_wrap_with_padding,
        "flags": USAGE_FLAGS[SIGN],
    }


def _import_request(i: dict[str, Any]) -> ddi.RsaUnwrapReq:
    algorithm = HASHES[i["oaep_hash"]]()
    encrypted = i["public"].encrypt(i["kek"], padding.OAEP(padding.MGF1(algorithm), algorithm, i["label"]))
    wrapped = i["wrap"](i["kek"], i["payload"]) if len(i["kek"]) in (16, 24, 32) else bytes(24)
    return ddi.RsaUnwrapReq(
        key_id=i["key_id"],
        wrapped_blob=encrypted + wrapped,
        wrapped_blob_key_class=i["key_class"],
        wrapped_blob_padding=i["padding"],
        wrapped_blob_hash_algorithm=i["hash"],
        key_tag=i.get("key_tag"),
        key_properties=properties(i["flags"]),
    )


def _blob(change: Callable[[bytes], bytes]) -> Callable[[Draft], None]:
    return lambda draft: draft.replace(wrapped_blob=change(draft.request.wrapped_blob))


def _rsa_parts(name: str) -> rsa.RSAPrivateNumbers:
    key: Any = load_der_private_key(PAYLOADS[name], None)
    numbers: rsa.RSAPrivateNumbers = key.private_numbers()
    return numbers


def _pkcs8(numbers: list[int]) -> bytes:
    """PKCS#8 of an RSAPrivateKey with these numbers, whether they fit or not."""
    inner = der.sequence(*(der.integer(number) for number in [0, *numbers]))
    algorithm = der.sequence(der.object_identifier("1.2.840.113549.1.1.1"), der.element(der.NULL))
    return der.sequence(der.integer(0), algorithm, der.element(der.OCTET_STRING, inner))


def _rsa_payload(**wrong: int) -> bytes:
    numbers = _rsa_parts("rsa2048")
    public = numbers.public_numbers
    parts = {
        "n": public.n, "e": public.e, "d": numbers.d, "p": numbers.p, "q": numbers.q,
        "dp": numbers.dmp1, "dq": numbers.dmq1, "qinv": numbers.iqmp,
    }  # fmt: skip
    return _pkcs8(list((parts | wrong).values()))


def _square_payload() -> bytes:
    """p = q: neither prime has an inverse modulo the other."""
    p = _rsa_parts("rsa2048").p
    e = 65537
    d = pow(e, -1, p * (p - 1))
    return _rsa_payload(n=p * p, p=p, q=p, d=d, dp=d % (p - 1), dq=d % (p - 1), qinv=1)


def _unequal_payload() -> bytes:
    """Primes of 1028 and 1020 bits: a sound key, which the form with CRT has no room for."""
    p, q, e = 9 * 2**1024 + 2345, 15 * 2**1016 + 743, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    return _rsa_payload(n=p * q, p=p, q=q, d=d, dp=d % (p - 1), dq=d % (q - 1), qinv=pow(q, -1, p))


def _private_der(key: Any) -> bytes:
    encoded: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return encoded


def _ecc_payload(scalar: int, point: bytes | None) -> bytes:
    """PKCS#8 of a P-256 key with a scalar and a public point that need not belong together."""
    public = [] if point is None else [der.element(0xA1, der.bit_string(point))]
    inner = der.sequence(der.integer(1), der.element(der.OCTET_STRING, scalar.to_bytes(32, "big")), *public)
    algorithm = der.sequence(der.object_identifier("1.2.840.10045.2.1"), der.object_identifier("1.2.840.10045.3.1.7"))
    return der.sequence(der.integer(0), algorithm, der.element(der.OCTET_STRING, inner))


_POINT = PAYLOADS["ecc-p256"][-65:]
_RSA = {"key_class": KeyClass.Rsa, "flags": USAGE_FLAGS[CBC]}
_BULK = {"key_class": KeyClass.AesGcmBulk, "flags": USAGE_FLAGS[CBC], "payload": bytes(32)}
_AES = {"key_class": KeyClass.Aes, "flags": USAGE_FLAGS[CBC], "payload": bytes(32)}


def payload(row: str, *touches: str, **inputs: Any) -> Fault:
    """A fault in the payload, and maybe in what is asked of it."""
    return fault(row, "payload", *touches, plain=put(**inputs))


RSA_UNWRAP = subject(
    DdiOp.RsaUnwrap,
    _import_inputs,
    _import_request,
    decode_faults({"wrapped_blob": 3072}, properties_in=True),
    TARGET,
    key_faults(
        MISSING
        | {
            "key-not-internal": ("rsa-decrypt", "aes", "session-object"),
            "key-internal-other-kind": ("masking", "k-sess"),
        }
    ),
    fault("blob-short", "blob", wire=_blob(lambda blob: blob[:255])),
    fault("blob-short", "blob", wire=_blob(lambda blob: b"")),
    fault("c1-range", "blob", wire=_blob(lambda blob: bytes(256) + blob[256:])),
    fault("c1-range", "blob", wire=_blob(lambda blob: b"\xff" * 256 + blob[256:])),
    fault("padding-unknown", "padding", plain=put(padding=RsaCryptoPadding(2))),
    fault("hash-unknown", "hash", plain=put(hash=HashAlgorithm(5))),
    fault("oaep", "hash", plain=put(hash=HashAlgorithm.Sha1)),
    fault("oaep", "blob", wire=_blob(lambda blob: blob[:100] + bytes([blob[100] ^ 1]) + blob[101:])),
    fault("oaep", "label", plain=put(label=b"label")),
    fault("kek-too-long", "kek", plain=put(kek=bytes(33))),
    fault("kek-length", "kek", plain=put(kek=bytes(20))),
    fault("kek-length", "kek", plain=put(kek=bytes(31))),
    fault("kwp", "blob", wire=_blob(lambda blob: blob[:256])),
    fault("kwp", "blob", wire=_blob(lambda blob: blob[:264])),
    fault("kwp", "blob", wire=_blob(lambda blob: blob[:-1])),
    fault("kwp", "blob", wire=_blob(lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]))),
    payload("kwp", "wrap", "class", wrap=aes_key_wrap, **_AES),
    fault("class-unknown", "class", plain=put(key_class=KeyClass(8))),
    fault("class-unknown", "class", plain=put(key_class=KeyClass(0))),
    payload("rsa-payload-der", "class", **_RSA, payload=b"garbage!"),
    payload("rsa-payload-der", "class", **_RSA | {"key_class": KeyClass.RsaCrt}, payload=PAYLOADS["ecc-p256"]),
    payload("rsa-payload-pkcs1", "class", **_RSA, payload=PAYLOADS["rsa2048"][26:]),
    payload("ecc-payload-der", payload=os.urandom(32)),
    payload("ecc-payload-rsa", payload=PAYLOADS["rsa2048"]),
    payload("ecc-payload-curve", payload=_private_der(ec.derive_private_key(7, ec.SECP256K1()))),
    payload("ecc-payload-form", payload=_ecc_payload(5, None)),
    payload("bulk-usage", "class", "usage", **_BULK | {"flags": USAGE_FLAGS[SIGN]}),
    payload("payload-size", "class", "usage", **_AES | {"payload": bytes(31)}),
    payload("payload-size", "class", "usage", **_AES | {"payload": bytes(8)}),
    payload("bulk-payload-size", "class", "usage", **_BULK | {"payload": bytes(16)}),
    payload("rsa-modulus-size", "class", "usage", **_RSA, payload=_private_der(rsa.generate_private_key(65537, 1024))),
    fault("bulk-slots", "payload", "class", "usage", "room", plain=put(**_BULK), late=BULK_SLOTS.late),
    payload("crt-values", "class", **_RSA | {"key_class": KeyClass.RsaCrt}, payload=_square_payload()),
    payload("crt-values", "class", **_RSA | {"key_class": KeyClass.RsaCrt}, payload=_unequal_payload()),
    payload(
        "rsa-usage-unwrap",
        "class",
        "usage",
        key_class=KeyClass.Rsa,
        flags=USAGE_FLAGS[UNWRAP],
        payload=PAYLOADS["rsa2048"],
    ),
    payload(
        "usage-not-allowed",
        "class",
        "usage",
        key_class=KeyClass.Rsa,
        flags=USAGE_FLAGS[DERIVE],
        payload=PAYLOADS["rsa2048"],
    ),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[CBC])),
    fault("usage-not-allowed", "usage", plain=put(flags=USAGE_FLAGS[UNWRAP])),
    payload("usage-not-allowed", "class", "usage", **_AES | {"flags": USAGE_FLAGS[SIGN]}),
    VAULT,
    payload("ecc-inconsistent", payload=_ecc_payload(5, b"\4" + _POINT[1:])),
    payload("ecc-inconsistent", payload=_ecc_payload(0, b"\4" + _POINT[1:])),
    payload("rsa-inconsistent", "class", "usage", **_RSA, payload=_rsa_payload(d=_rsa_parts("rsa2048").d + 2)),
    payload(
        "rsa-inconsistent", "class", "usage", **_RSA | {"key_class": KeyClass.RsaCrt}, payload=_rsa_payload(e=65539)
    ),
)


# -- UnmaskKey ---------------------------------------------------------------------------------------------------------


def _masked(name: str) -> Callable[[Draft], None]:
    return lambda draft: draft.inputs.update(masked_key=keyring(draft.scene)[name].masked_key)


def _damaged(change: Callable[[bytearray], None]) -> Callable[[Draft], None]:
    def apply(draft: Draft) -> None:
        blob = bytearray(draft.request.masked_key)
        change(blob)
        draft.replace(masked_key=bytes(blob))

    return apply


def _put_byte(offset: int, value: int | None = None) -> Callable[[bytearray], None]:
    def change(blob: bytearray) -> None:
        blob[offset] = blob[offset] ^ 1 if value is None else value

    return change


def _other_session_blob(draft: Draft) -> None:
    draft.inputs["masked_key"] = keyring(draft.scene)["other-aes"].masked_key


UNMASK_KEY = subject(
    DdiOp.UnmaskKey,
    lambda scene: {"masked_key": keyring(scene)["aes"].masked_key},
    lambda i: ddi.UnmaskKeyReq(**i),
    *(replace(f, touches=f.touches | {"blob"}) for f in decode_faults({"masked_key": 3072})),
    fault("structure", "blob", wire=lambda draft: draft.replace(masked_key=b"")),
    fault("structure", "blob", wire=lambda draft: draft.replace(masked_key=draft.request.masked_key[:-1])),
    fault("structure", "blob", wire=lambda draft: draft.replace(masked_key=draft.request.masked_key + b"\0")),
    *(
        fault("structure", "blob", wire=_damaged(_put_byte(offset, value)))
        for offset, value in (
            (2, 3),
            (4, 15),
            (6, 1),
            (8, 0),
            (12, 0),
            (16, 0),
        )
    ),
    fault("metadata", "blob", wire=_damaged(_put_byte(68, 0xA1))),
    fault("metadata", "blob", wire=_damaged(_put_byte(70, 9))),
    *(fault("mac", "blob", wire=_damaged(_put_byte(offset))) for offset in (0, 20, 60, 75, -50, -1)),
    fault("mac", "blob", wire=_damaged(_put_byte(2, 2))),
    fault("mac", "blob", plain=_other_session_blob),
    fault(
        "unwrapping-key",
        "blob",
        plain=lambda draft: draft.inputs.update(masked_key=keyring(draft.scene).session.unwrapping_key().masked_key),
    ),
    fault("bulk-slots", "blob", "room", plain=_masked("bulk"), late=BULK_SLOTS.late),
    fault("tag-in-use", "blob", plain=_masked("aes-tagged")),
    fault("no-space", "room", late=lambda scene: keyring(scene).fill()),
    fault("fragmented", "room", late=lambda scene: keyring(scene).fragment()),
)

SUBJECTS = (AES_GENERATE_KEY, ECC_GENERATE_KEY_PAIR, RSA_UNWRAP, UNMASK_KEY)
