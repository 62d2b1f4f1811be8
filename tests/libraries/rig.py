# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of all libraries share: types of fixtures, certificates, the examples in docs/libraries.md."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from ihsm.api.ec_key import EcPrivateKey
from ihsm.api.rsa_key import RsaPrivateKey

DeviceKey = EcPrivateKey | RsaPrivateKey
Keys = Callable[[str], DeviceKey]
"""A key of the device by its kind."""
Does = Callable[..., AbstractContextManager[None]]
"""`with does(EccSign=1):` the device executes these commands and no others."""
Signs = Callable[..., AbstractContextManager[None]]
"""`with signs(key, 2):` the device makes two signatures and does nothing else."""

PAGE: Final = Path(__file__).parents[2] / "docs/libraries.md"
NOW: Final = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY: Final = datetime.timedelta(days=1)

JWS_KINDS: Final = [
    ("ES256", "p256"),
    ("ES384", "p384"),
    ("ES512", "p521"),
    ("RS256", "rsa2048"),
    ("PS256", "rsa2048"),
]
"""Signature algorithms of JOSE (RFC 7518 §3.1), each with a kind of key."""


def name_of(common_name: str) -> x509.Name:
    """A name with one part."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def self_signed(key: DeviceKey, common_name: str) -> x509.Certificate:
    """A certificate of a CA, which is a host as well, signed in the device."""
    return (
        x509.CertificateBuilder()
        .subject_name(name_of(common_name))
        .issuer_name(name_of(common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(common_name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def run_example(heading: str, **names: Any) -> dict[str, Any]:
    """Run the example below a heading of docs/libraries.md with these names; all names afterwards."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    (program,) = re.findall(r"^```python\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    exec(compile(program, f"{PAGE.name}, {heading}", "exec"), names)
    return names
