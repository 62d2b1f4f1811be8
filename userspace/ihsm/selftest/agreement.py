# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Steps that agree on secrets, derive keys from them and use those (spec 05 §10, §11, §12.1)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from cryptography.hazmat.primitives import hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.ddi import Key, KeyRequest
from ihsm.ddi.wrapping import HASHES
from ihsm.selftest.bench import DERIVE, ENCRYPT, SIGN, Bench, CheckError, check_equal
from ihsm.selftest.private_keys import CURVES
from ihsm.selftest.symmetric import check_cbc, check_gcm
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyType, KeyUsage

_SECRETS: Final = {
    EccCurve.P256: KeyType.Secret256,
    EccCurve.P384: KeyType.Secret384,
    EccCurve.P521: KeyType.Secret521,
}
_HMACS: Final = (
    (HashAlgorithm.Sha256, KeyType.HmacSha256, KeyType.VarHmac256, 32),
    (HashAlgorithm.Sha384, KeyType.HmacSha384, KeyType.VarHmac384, 48),
    (HashAlgorithm.Sha512, KeyType.HmacSha512, KeyType.VarHmac512, 64),
)
_ODD_BYTES: Final = 7
"""How much longer than its hash a variable-length key is made here."""
_FIRMWARE_KDK_BYTES: Final = 32
_MESSAGE: Final = b"self-test message"
_SALT, _INFO, _LABEL, _CONTEXT = b"self-test salt", b"self-test info", b"self-test label", b"self-test context"


def agree(bench: Bench, curve: EccCurve) -> tuple[Key, bytes]:
    """A secret in the device, and the same secret computed here."""
    own = ec.generate_private_key(CURVES[curve].curve)
    pair = bench.keep(bench.session.generate_ecc_key(curve, DERIVE))
    spki = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = bench.keep(bench.session.ecdh(pair, spki, _SECRETS[curve], DERIVE))
    if not isinstance(pair.public_key, ec.EllipticCurvePublicKey):
        raise CheckError("the public half of an EC key is none")
    return secret, own.exchange(ec.ECDH(), pair.public_key)


def hmac_of(algorithm: HashAlgorithm, secret: bytes) -> bytes:
    """HMAC of this module's message, by the other library."""
    mac = hmac.HMAC(secret, HASHES[algorithm]())
    mac.update(_MESSAGE)
    return mac.finalize()


def check_hmac(bench: Bench, key: Key, algorithm: HashAlgorithm, secret: bytes) -> None:
    """Hmac with a key whose value is known here."""
    check_equal(f"the HMAC with {key.key_type.name}", bench.session.hmac(key, _MESSAGE), hmac_of(algorithm, secret))


def hkdf(algorithm: HashAlgorithm, secret: bytes, length: int) -> bytes:
    """RFC 5869, with this module's salt and info."""
    return HKDF(HASHES[algorithm](), length, _SALT, _INFO).derive(secret)


def kbkdf(algorithm: HashAlgorithm, secret: bytes, length: int) -> bytes:
    """NIST SP 800-108 in counter mode, with this module's label and context."""
    derivation = KBKDFHMAC(
        HASHES[algorithm](), Mode.CounterMode, length, 4, 4, CounterLocation.BeforeFixed, _LABEL, _CONTEXT, None
    )
    return derivation.derive(secret)


def kbkdf_in_two_steps(algorithm: HashAlgorithm, secret: bytes, length: int) -> bytes:
    """What the firmware computes instead: SP 800-108 with a key that it makes by HKDF first (spec 05 §11.4)."""
    return kbkdf(algorithm, HKDF(HASHES[algorithm](), _FIRMWARE_KDK_BYTES, b"", _CONTEXT).derive(secret), length)


def ecdh(curve: EccCurve, bench: Bench) -> str:
    """EcdhKeyExchange: the secret is compared through an HMAC key derived from it."""
    secret, same = agree(bench, curve)
    algorithm, key_type, _, length = _HMACS[0]
    key = bench.session.hkdf(secret, algorithm, key_type, SIGN, salt=_SALT, info=_INFO)
    check_hmac(bench, bench.keep(key), algorithm, hkdf(algorithm, same, length))
    return f"the same secret of {len(same)} bytes on both sides"


def hkdf_derive(bench: Bench) -> str:
    """HkdfDerive into HMAC, AES and bulk keys."""
    secret, same = agree(bench, EccCurve.P384)
    for algorithm, key_type, _, length in _HMACS:
        key = bench.session.hkdf(secret, algorithm, key_type, SIGN, salt=_SALT, info=_INFO)
        check_hmac(bench, bench.keep(key), algorithm, hkdf(algorithm, same, length))
    algorithm = HashAlgorithm.Sha256
    for key_type, length in ((KeyType.Aes128, 16), (KeyType.Aes192, 24), (KeyType.Aes256, 32)):
        key = bench.keep(bench.session.hkdf(secret, algorithm, key_type, ENCRYPT, salt=_SALT, info=_INFO))
        check_cbc(bench, key, hkdf(algorithm, same, length), 64)
    bulk = KeyType.AesGcmBulk256Unapproved
    key = bench.keep(bench.session.hkdf(secret, algorithm, bulk, ENCRYPT, salt=_SALT, info=_INFO))
    check_gcm(bench, key, hkdf(algorithm, same, 32))
    return "HMAC, AES and bulk keys are those of RFC 5869"


def kbkdf_derive(bench: Bench) -> str:
    """KbkdfCounterHmacDerive into HMAC and AES keys."""
    secret, same = agree(bench, EccCurve.P521)

    def derive(algorithm: HashAlgorithm, key_type: KeyType, request: KeyRequest) -> Key:
        return bench.keep(bench.session.kbkdf(secret, algorithm, key_type, request, label=_LABEL, context=_CONTEXT))

    algorithm, key_type, _, length = _HMACS[0]
    expected, form = kbkdf, "those of SP 800-108"
    if bench.session.hmac(derive(algorithm, key_type, SIGN), _MESSAGE) == hmac_of(
        algorithm, kbkdf_in_two_steps(algorithm, same, length)
    ):
        expected, form = kbkdf_in_two_steps, "the firmware's, by HKDF and SP 800-108"
    for algorithm, key_type, _, length in _HMACS:
        check_hmac(bench, derive(algorithm, key_type, SIGN), algorithm, expected(algorithm, same, length))
    algorithm = HashAlgorithm.Sha256
    check_cbc(bench, derive(algorithm, KeyType.Aes256, ENCRYPT), expected(algorithm, same, 32), 64)
    return f"HMAC and AES keys are {form}"


def variable_hmac(bench: Bench) -> str:
    """HMAC with keys of a length of the client's choice."""
    secret, same = agree(bench, EccCurve.P256)
    request = KeyRequest(KeyUsage.SignVerify, session=True)
    for algorithm, _, key_type, length in _HMACS:
        size = length + _ODD_BYTES
        key = bench.session.hkdf(secret, algorithm, key_type, request, salt=_SALT, info=_INFO, key_length=size)
        check_hmac(bench, bench.keep(key), algorithm, hkdf(algorithm, same, size))
    return f"keys {_ODD_BYTES} bytes longer than their hash"


STEPS: Final[tuple[tuple[str, Callable[[Bench], str]], ...]] = (
    *((f"ecdh-{curve.name.lower()}", partial(ecdh, curve)) for curve in CURVES),
    ("hkdf", hkdf_derive),
    ("kbkdf", kbkdf_derive),
    ("variable-hmac", variable_hmac),
)
