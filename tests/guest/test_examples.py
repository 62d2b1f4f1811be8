# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The programs of docs/examples that keep keys in a store, in a guest; what they prove is verified outside of it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from support.guests import run_guest

ROOT = Path(__file__).parents[2]


@pytest.mark.guest
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_examples_run_in_a_guest(tmp_path: Path) -> None:
    with EmbeddedDevice(["--state", str(tmp_path / "state")]) as device:
        with Controller(VfioUserFunction(device.socket_path)) as controller:
            root = Partition(controller).certificate_chain().certificates[0]
        shared = tmp_path / "shared"
        shared.mkdir()
        done = run_guest(
            f"XDG_DATA_HOME=/tmp/data {sys.executable} {ROOT}/tests/guest/examples.py {shared}",
            sockets=(device.socket_path,),
            shares=(shared,),
            modules=["vfio_iommu_type1", "vfio-pci"],
        )
    assert done.status == 0, done.err[-3000:]
    record = json.loads(done.out.splitlines()[-1])
    assert record["request_to_jwt"][-1] == "verified: {'sub': 'alice', 'iss': 'issuer'}"
    assert record["file_encryption"] is True
    key = ec.EllipticCurvePublicNumbers(*record["service"], ec.SECP256R1()).public_key()
    assert "and is brought back" in done.err
    for number, answer in enumerate(record["recovery"]):
        key.verify(base64.b64decode(answer), b"message %d" % number, ec.ECDSA(hashes.SHA256()))

    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    verify = [sys.executable, ROOT / "docs/examples/attested_key.py", "verify", tmp_path / "root.pem", "nonce", shared]
    verified = subprocess.run(verify, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stderr
