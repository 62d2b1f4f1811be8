#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Sign a file in the HSM and keep what proves it. Usage: sign_and_attest.py FILE FOLDER [DEVICE]

FOLDER gets signature.der and public.pem, which any tool can verify, and report.cose with chain.pem, which show that
the key was made in the device and is for signing; the report is made for the SHA-384 digest of the file:

    openssl dgst -sha384 -verify public.pem -signature signature.der FILE
    ihsm verify-report report.cose --chain chain.pem --key public.pem --report-data DIGEST
"""

import hashlib
import secrets
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm.ddi import Credential, KeyRequest, Partition, SoftwareTrustAnchor
from ihsm.ddi.pota import der_signature
from ihsm.uri import open_device
from ihsm_abi.ddi import EccCurve, HashAlgorithm, KeyUsage

if not 3 <= len(sys.argv) <= 4:
    sys.exit(__doc__)
digest = hashlib.sha384(Path(sys.argv[1]).read_bytes()).digest()
folder = Path(sys.argv[2])
credential = Credential(id=secrets.token_bytes(16), pin=secrets.token_bytes(16))
owner = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))

with open_device(*sys.argv[3:]) as device:
    partition = Partition(device)
    backup_key = partition.init_bk3(secrets.token_bytes(48)).masked_bk3
    partition.establish_credential(credential, backup_key, owner)
    chain = partition.certificate_chain()
    with partition.open_session(credential) as session:
        key = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify))
        signature = session.ecc_sign(key, digest, HashAlgorithm.Sha384)
        report = session.attest(key, digest)

public_pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
evidence = {
    "signature.der": der_signature(signature),
    "public.pem": public_pem,
    "report.cose": report,
    "chain.pem": chain.pem(),
}
for name, content in evidence.items():
    (folder / name).write_bytes(content)
print(f"signed {sys.argv[1]} with {key.key_type.name} key {key.key_id}: {', '.join(evidence)} in {folder}")
