# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A session on a device that nobody uses but this run: it is provisioned when it is not."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.chardev import NodeDevice
from ihsm.ddi import Credential, DdiError, KeyRequest, Partition, Session, SoftwareTrustAnchor
from ihsm_abi.ddi.enums import AesKeySize, KeyUsage
from ihsm_abi.ddi.limits import BK3_BYTES

# The device is a private one and its keys are worth nothing: all processes of a run must know its credential.
CREDENTIAL: Final = Credential(b"conformance run.", b"worth nothing...")
ATTEMPTS: Final = 50
PAUSE_S: Final = 0.1
_OWNER: Final = int.from_bytes(b"\x33" * 48, "big")


def provision(partition: Partition) -> None:
    """Give the partition its credential, unless it has one; of several processes that want to, one comes first.

    Raises:
        IhsmError: it cannot be.
    """
    anchor = SoftwareTrustAnchor(ec.derive_private_key(_OWNER, ec.SECP384R1()))
    for left in reversed(range(ATTEMPTS)):
        if partition.is_provisioned():
            return
        try:
            partition.establish_credential(CREDENTIAL, partition.init_bk3(bytes(BK3_BYTES)).masked_bk3, anchor)
            return
        except DdiError:
            if not left:
                raise
            time.sleep(PAUSE_S)


@contextlib.contextmanager
def open_session(device: NodeDevice) -> Iterator[tuple[Session, int]]:
    """A session, and the number of a key for AES-GCM."""
    partition = Partition(device)
    provision(partition)
    with partition.open_session(CREDENTIAL) as session:
        request = KeyRequest(KeyUsage.EncryptDecrypt, session=True)
        key = session.generate_aes_key(AesKeySize.AesGcmBulk256, request)
        assert key.bulk_key_id is not None
        yield session, key.bulk_key_id
