# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Other programs and libraries, which verify what was signed in the device."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from support.waiting import HANG_S


def run(*command: str | Path, data: bytes = b"", succeeds: bool = True) -> bytes:
    """What a program prints, on both of its outputs; it must succeed, or fail."""
    done = subprocess.run(
        command, input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=HANG_S, check=False
    )
    assert (done.returncode == 0) is succeeds, done.stdout.decode(errors="replace")
    return done.stdout


def pem(public_key: Any) -> bytes:
    """A public key in PEM."""
    encoded: bytes = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def openssl_verifies(folder: Path, public_key: Any, signature: bytes, message: bytes, *options: str) -> None:
    """`openssl dgst -verify` with SHA-256 or what `options` say accepts a signature, and refuses that of other data."""
    key, signed = folder / "public.pem", folder / "signature"
    key.write_bytes(pem(public_key))
    signed.write_bytes(signature)
    command = ["openssl", "dgst", *(options or ["-sha256"]), "-verify", key, "-signature", signed]
    assert b"Verified OK" in run(*command, data=message)
    run(*command, data=message + b"!", succeeds=False)


def jwcrypto_payload(token: str | bytes, public_key: Any, algorithm: str) -> bytes:
    """Payload of a compact JWS that jwcrypto verifies."""
    from jwcrypto.jwk import JWK
    from jwcrypto.jws import JWS

    text = token.decode() if isinstance(token, bytes) else token
    parsed = JWS()
    parsed.allowed_algs = [algorithm]
    parsed.deserialize(text, JWK.from_pem(pem(public_key)))
    payload: bytes = parsed.payload
    return payload
