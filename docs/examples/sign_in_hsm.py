#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Provision a device, make a key in it, sign with it. Usage: sign_in_hsm.py [DEVICE]

Without a device URI the one device that is found is taken, or a private one is started.
"""

import hashlib
import secrets
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from ihsm.ddi import Credential, KeyRequest, Partition, SoftwareTrustAnchor
from ihsm.uri import open_device
from ihsm_abi.ddi.enums import EccCurve, HashAlgorithm, KeyUsage

message = b"signed where nobody can read the key"
credential = Credential(id=secrets.token_bytes(16), pin=secrets.token_bytes(16))
owner = SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1()))

with open_device(*sys.argv[1:]) as device:
    partition = Partition(device)
    backup_key = partition.init_bk3(secrets.token_bytes(48)).masked_bk3
    partition.establish_credential(credential, backup_key, owner)
    with partition.open_session(credential) as session:
        key = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify, session=True))
        signature = session.ecc_sign(key, hashlib.sha384(message).digest(), HashAlgorithm.Sha384)

r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
key.public_key.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA384()))
print(f"verified a signature made by {key.key_type.name} key {key.key_id}")
