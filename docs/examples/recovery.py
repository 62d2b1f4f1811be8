#!/usr/bin/env python3
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A service that outlives its device: it signs each line of its input. Usage: recovery.py [LABEL]

Makes the key LABEL ("service"), unless the store has it (a store is needed: ihsm init). Reset or restart the device
while it runs: the next line is signed all the same, for the call brings device, session and key back by itself. Two
things are left to the program: a device that is not there yet is tried again with the next line, and keys that nothing
can bring back end the service.
"""

import base64
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm import Hsm
from ihsm.errors import IhsmError, KeysLostError

label = sys.argv[1] if len(sys.argv) > 1 else "service"
ecdsa = ec.ECDSA(hashes.SHA256())

with Hsm.open() as hsm:
    key = hsm[label] if label in hsm else hsm.generate(label, "p256", usage="sign")
    for line in sys.stdin.buffer:
        message = line.rstrip(b"\n")
        try:
            signature = key.sign(message, ecdsa)
        except KeysLostError as error:
            sys.exit(f"keys lost: {error}")
        except IhsmError as error:
            print(f"not signed, try again: {error}", flush=True)
            continue
        key.public_key().verify(signature, message, ecdsa)
        print(base64.b64encode(signature).decode(), flush=True)
