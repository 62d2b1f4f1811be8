# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Steps that find, restore, delete and attest keys (spec 05 §13, §14, §16.3)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from ihsm.ddi import Key, KeyInfo, KeyRequest, StatusError, verify_report
from ihsm.selftest.bench import ENCRYPT, SIGN, Bench, CheckError, check, check_equal
from ihsm.selftest.private_keys import check_signature
from ihsm.selftest.symmetric import check_cbc
from ihsm_abi.ddi import AesKeySize, DdiStatus, EccCurve, KeyClass, KeyUsage
from ihsm_abi.ddi.attestation import REPORT_DATA_BYTES, AttestationFlags

_TAGS: Final = range(0xF000, 0x10000)
_GENERATED_SIGNER: Final = AttestationFlags.GENERATED | AttestationFlags.SIGN | AttestationFlags.VERIFY
_GENERATED_CIPHER: Final = AttestationFlags.GENERATED | AttestationFlags.ENCRYPT | AttestationFlags.DECRYPT


def open_and_delete(bench: Bench) -> str:
    """OpenKey finds a key by its tag; DeleteKey ends it."""
    tag = _free_tag(bench)
    key = bench.keep(bench.session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify, tag=tag)))
    found = bench.session.open_key(tag)
    check_equal("the opened key", (found.key_id, found.public_key_der), (key.key_id, key.public_key_der))
    bench.session.delete_key(key)
    bench.forget(key)
    bench.refuses(key)
    check(not _is_taken(bench, tag), "the tag of a deleted key still opens it")
    return f"tag {tag:#06x} found, key deleted"


def mask_and_unmask(bench: Bench) -> str:
    """UnmaskKey: a masked key comes back under a new id, a forged one does not."""
    secret = os.urandom(32)
    imported = bench.import_key(secret, KeyClass.Aes, ENCRYPT)
    generated = bench.keep(
        bench.session.generate_ecc_key(EccCurve.P521, KeyRequest(KeyUsage.SignVerify, label=b"self-test"))
    )
    check_equal("the label", KeyInfo.of(generated.masked_key).label, b"self-test")
    copy = bench.keep(bench.session.unmask(generated.masked_key))
    check_equal("the unmasked key", copy.public_key_der, generated.public_key_der)
    check_signature(bench, copy)
    check_cbc(bench, bench.keep(bench.session.unmask(imported.masked_key)), secret, 64)
    forged = imported.masked_key[:-1] + bytes([imported.masked_key[-1] ^ 1])
    try:
        bench.keep(bench.session.unmask(forged))
    except StatusError as error:
        return f"an EC and an AES key restored; a forged one refused ({error.status.name})"
    raise CheckError("a forged masked key is accepted")


def attest(bench: Bench) -> str:
    """AttestKey: reports verify against the certificate chain and claim what is true."""
    if bench.chain is None:
        raise CheckError("needs a certificate chain that verifies")
    identity = bench.chain.identity_key

    def claims(key: Key) -> AttestationFlags:
        data = os.urandom(REPORT_DATA_BYTES)
        encoded = bench.session.attest(key, data)
        report = verify_report(encoded, identity, report_data=data)
        check_equal("the application in the report", report.app_uuid, bench.credential.id)
        expected = key.public_key.public_numbers() if key.public_key_der else None
        got = report.public_key.public_numbers() if report.public_key else None
        check_equal("the public key in the report", got, expected)
        bench.report = bench.report or encoded
        return report.flags

    signer = bench.keep(bench.session.generate_ecc_key(EccCurve.P384, SIGN))
    check_equal("the claim about an EC key", claims(signer), _GENERATED_SIGNER)
    cipher = bench.keep(bench.session.generate_aes_key(AesKeySize.Aes256, ENCRYPT))
    check_equal("the claim about an AES key", claims(cipher), _GENERATED_CIPHER)
    unwrapping = claims(bench.session.unwrapping_key())
    check(AttestationFlags.UNWRAP in unwrapping, "the unwrapping key does not claim that it unwraps")
    return "reports on an EC, an AES and the unwrapping key verify against the chain"


def _free_tag(bench: Bench) -> int:
    """A tag that no key of the application has."""
    return next(tag for tag in _TAGS if not _is_taken(bench, tag))


def _is_taken(bench: Bench, tag: int) -> bool:
    try:
        bench.session.open_key(tag)
    except StatusError as error:
        if error.status == DdiStatus.KeyNotFound:
            return False
        raise
    return True


STEPS: Final[tuple[tuple[str, Callable[[Bench], str]], ...]] = (
    ("open-delete", open_and_delete),
    ("mask-unmask", mask_and_unmask),
    ("attest", attest),
)
