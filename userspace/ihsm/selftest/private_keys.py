# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Steps with EC and RSA private keys: generate, import, sign, decrypt (spec 05 §8, §9, §12)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ihsm.ddi import Key, KeyInfo
from ihsm.ddi.pota import der_signature
from ihsm.selftest.bench import ENCRYPT, SIGN, Bench, CheckError, check, check_equal
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyClass, KeyType, RsaOpType


@dataclass(frozen=True, slots=True)
class CurveUse:
    """A curve, and the hash that goes with it."""

    curve: ec.EllipticCurve
    algorithm: HashAlgorithm
    hash: hashes.HashAlgorithm


CURVES: Final = {
    EccCurve.P256: CurveUse(ec.SECP256R1(), HashAlgorithm.Sha256, hashes.SHA256()),
    EccCurve.P384: CurveUse(ec.SECP384R1(), HashAlgorithm.Sha384, hashes.SHA384()),
    EccCurve.P521: CurveUse(ec.SECP521R1(), HashAlgorithm.Sha512, hashes.SHA512()),
}
_OF_TYPE: Final = {
    KeyType.Ecc256Private: EccCurve.P256,
    KeyType.Ecc384Private: EccCurve.P384,
    KeyType.Ecc521Private: EccCurve.P521,
}
_RSA_BITS: Final = 2048
_MESSAGE: Final = b"self-test message"


def check_signature(bench: Bench, key: Key) -> None:
    """EccSign; the other library verifies the signature under the key's public half."""
    use = CURVES[_OF_TYPE[key.key_type]]
    digest = hashes.Hash(use.hash)
    digest.update(_MESSAGE)
    value = digest.finalize()
    signature = der_signature(bench.session.ecc_sign(key, value, use.algorithm))
    if not isinstance(key.public_key, ec.EllipticCurvePublicKey):
        raise CheckError("the public half of an EC key is none")
    key.public_key.verify(signature, value, ec.ECDSA(Prehashed(use.hash)))


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    """What is wrapped for import."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def ecc_sign(curve: EccCurve, bench: Bench) -> str:
    """EccGenerateKeyPair and EccSign, and the same with an imported key."""
    generated = bench.keep(bench.session.generate_ecc_key(curve, SIGN))
    check_equal("the type in the masked key", KeyInfo.of(generated.masked_key).key_type, generated.key_type)
    check_signature(bench, generated)
    own = ec.generate_private_key(CURVES[curve].curve)
    imported = bench.import_key(pkcs8(own), KeyClass.Ecc, SIGN)
    check_equal("the imported key", imported.public_key.public_numbers(), own.public_key().public_numbers())
    check_signature(bench, imported)
    return "signatures of a generated and an imported key verify"


@cache
def _rsa_key() -> rsa.RSAPrivateKey:
    """One key for all steps: making it takes longest of everything here."""
    return rsa.generate_private_key(65537, _RSA_BITS)


def rsa_mod_exp(key_class: KeyClass, bench: Bench) -> str:
    """RsaUnwrap and RsaModExp: sign and decrypt, padding done on this side."""
    own = _rsa_key()
    numbers = own.public_key().public_numbers()
    size = _RSA_BITS // 8
    key = bench.import_key(pkcs8(own), key_class, SIGN)
    check_equal("the imported key", key.public_key.public_numbers(), numbers)
    reference = own.sign(_MESSAGE, padding.PKCS1v15(), hashes.SHA256())
    padded = pow(int.from_bytes(reference, "big"), numbers.e, numbers.n).to_bytes(size, "big")
    check_equal("the signature", bench.session.rsa_mod_exp(key, padded, RsaOpType.Sign), reference)
    key = bench.import_key(pkcs8(own), key_class, ENCRYPT)
    secret = os.urandom(32)
    block = bench.session.rsa_mod_exp(key, own.public_key().encrypt(secret, padding.PKCS1v15()), RsaOpType.Decrypt)
    check(block.startswith(b"\x00\x02"), "the decrypted block is not padded")
    check_equal("the decrypted text", block[block.index(b"\0", 2) + 1 :], secret)
    return f"RSA-{_RSA_BITS} {'with' if key_class is KeyClass.RsaCrt else 'without'} CRT values: signs, decrypts"


STEPS: Final[tuple[tuple[str, Callable[[Bench], str]], ...]] = (
    *((f"ecdsa-{curve.name.lower()}", partial(ecc_sign, curve)) for curve in CURVES),
    ("rsa", partial(rsa_mod_exp, KeyClass.Rsa)),
    ("rsa-crt", partial(rsa_mod_exp, KeyClass.RsaCrt)),
)
