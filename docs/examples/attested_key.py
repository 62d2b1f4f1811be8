#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A signature whose verifier trusts nobody but the device's maker.

    attested_key.py prove LABEL NONCE FOLDER    where the HSM is (a store is needed: ihsm init)
    attested_key.py verify ROOT NONCE FOLDER    anywhere: no device, no store

`prove` makes the key LABEL, unless there is one, and writes to FOLDER a message with its signature, the device's
report on the key, made for the verifier's NONCE, and the device's certificates. `verify` has the root certificate that
it trusts in ROOT (PEM) and takes nothing else on trust: certificates, report, key and signature follow from it.
"""

import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm import Hsm
from ihsm.ddi import verify_report
from ihsm.ddi.certificates import load_certificates, order_chain
from ihsm.errors import IhsmError
from ihsm_abi.ddi.attestation import AttestationFlags

ECDSA = ec.ECDSA(hashes.SHA256())
MESSAGE = b"signed by a key that has never been outside of its device"


def prove(label: str, nonce: str, folder: Path) -> str:
    """Sign, and write what shows that the device made the key."""
    with Hsm.open() as hsm:
        key = hsm[label] if label in hsm else hsm.generate(label, "p256", usage="sign")
        evidence = hsm.attest(key, nonce.encode())
        (folder / "message").write_bytes(MESSAGE)
        (folder / "signature.der").write_bytes(key.sign(MESSAGE, ECDSA))
    (folder / "report.cose").write_bytes(evidence.report)
    (folder / "chain.pem").write_bytes(evidence.chain.pem())
    return f"signed with {label}; the proof is in {folder}"


def verify(root: str, nonce: str, folder: Path) -> str:
    """Follow the proof from the root; raises where it does not hold."""
    trusted = load_certificates(Path(root).read_bytes(), root)
    chain = order_chain(load_certificates((folder / "chain.pem").read_bytes(), "chain.pem"))
    chain.verify(trusted, strict_leaf=False)  # False: the device's own leaf has a mistake that is known
    report = verify_report((folder / "report.cose").read_bytes(), chain.identity_key, report_data=nonce.encode())
    if AttestationFlags.GENERATED not in report.flags or AttestationFlags.SIGN not in report.flags:
        raise InvalidSignature(f"the key was not made in the device to sign: {report.flags!r}")
    key = report.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidSignature("the key is no EC key")
    key.verify((folder / "signature.der").read_bytes(), (folder / "message").read_bytes(), ECDSA)
    maker = chain.certificates[0].subject.rfc4514_string()
    return f"verified: a {key.curve.name} key that was made in a device under {maker}"


if len(sys.argv) != 5 or sys.argv[1] not in ("prove", "verify"):
    sys.exit(__doc__)
try:
    print((prove if sys.argv[1] == "prove" else verify)(sys.argv[2], sys.argv[3], Path(sys.argv[4])))
except (IhsmError, InvalidSignature) as error:
    sys.exit(f"{sys.argv[1]}: {type(error).__name__}: {error}")
