# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""docs/examples/quic_tls.py, on the host and in a guest: its client accepts what a key of the device has signed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm import Hsm
from ihsm.store import Store
from support.guests import run_guest

pytest.importorskip("aioquic", reason="scripts/test-libraries has it")

EXAMPLE: Final = Path(__file__).parents[2] / "docs" / "examples" / "quic_tls.py"
ANSWER: Final = "SIGNED IN THE HSM\n"
PREPARE: Final = """
import fcntl, socket, struct
from ihsm import Hsm

SIOCSIFFLAGS, IFF_UP_RUNNING = 0x8914, 0x41
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))
Hsm.create().close()
"""
"""Loopback up, which a bare guest leaves down, and a store on the guest's function."""


def test_a_client_accepts_a_server_whose_key_is_in_the_device(tmp_path: Path) -> None:
    Hsm.create("default", device="private", root=tmp_path / "ihsm").close()
    certificates = []
    for _ in range(2):  # the second time with the key and the certificate of the first
        environment = os.environ | {"XDG_DATA_HOME": str(tmp_path), "IHSM_STORE": "default", "IHSM_DEVICE": ""}
        done = subprocess.run([sys.executable, EXAMPLE], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ANSWER), done.stderr
        version = Store.open("default", root=tmp_path / "ihsm").key("localhost").newest
        (certificate,) = version.certificates
        public = x509.load_der_x509_certificate(certificate).public_key()
        assert public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == version.public
        assert version.origin == "device"
        certificates.append(certificate)
    assert certificates[0] == certificates[1]


@pytest.mark.guest
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_it_does_so_in_a_guest() -> None:
    done = run_guest(
        f"export XDG_DATA_HOME=/tmp/data && {sys.executable} -c {shlex.quote(PREPARE)} && {sys.executable} {EXAMPLE}",
        devices=1,
        modules=["vfio_iommu_type1", "vfio-pci"],
    )
    assert (done.status, done.out) == (0, ANSWER), done.err[-3000:]
