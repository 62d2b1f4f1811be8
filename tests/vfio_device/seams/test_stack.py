# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Operations on keys overwrite the stack they and the library have used, whatever the library has left there.

Litter stands for it: as soon as an operation takes hold of a key, the stack below is full of it. Operations that go so
deep that they overwrite the litter themselves are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device.hsm.keystore import BulkType, Curve, Handle, Hash, KeyStore, Owner, PairwiseTest
from support.aes_rig import GCM_ID, XTS_ID_1, XTS_ID_2, AesRig, gcm_job, xts_job
from support.seams import Seams

OWNER = Owner()
IV = bytes(16)
MASKED_BYTES = 48
IN_REGISTERS = 128
"""Bytes for which code for GCM needs no stack."""


class Keys:
    """A store with one key of each kind."""

    def __init__(self) -> None:
        self.store = KeyStore()
        self.secret = self.store.generate_secret(32, OWNER)
        self.masking = self.store.generate_secret(80, OWNER)
        self.scalar = self.store.import_secret(b"\x11" * 48, OWNER)
        self.ec = self.store.ec_generate(Curve.P384, OWNER)
        self.rsa = self.store.rsa_generate(2048, OWNER, crt=True)
        self.point = self.store.ec_public(self.ec)
        self.blob = self.store.mask(self.secret, self.masking, b"", IV, MASKED_BYTES)
        self.sealed = self.store.seal(self.secret, self.secret, b"")
        self.table = self.store.bulk_table(0)

    def close(self) -> None:
        self.table.close()
        self.store.close()


def publish(keys: Keys) -> None:
    keys.table.publish(1, keys.secret, BulkType.GCM_APPROVED, session_id=0, app_id=0, session_only=False)


def unmask(keys: Keys) -> Handle:
    return keys.store.unmask_secret(keys.masking, keys.blob, IV, 0, MASKED_BYTES, 32, OWNER)


OPERATIONS: dict[str, Callable[[Keys], object]] = {
    "aes-cbc": lambda k: k.store.aes_cbc(k.secret, encrypt=True, iv=IV, data=bytes(64)),
    "hmac": lambda k: k.store.hmac(k.secret, Hash.SHA256, b"message"),
    "hkdf": lambda k: k.store.hkdf(k.secret, Hash.SHA256, None, b"info", 32, OWNER),
    "kbkdf": lambda k: k.store.kbkdf(k.secret, Hash.SHA384, b"label", [k.masking], 48, OWNER),
    "ec-sign": lambda k: k.store.ec_sign(k.ec, bytes(32)),
    "ec-agree": lambda k: k.store.ec_agree(k.ec, k.point, OWNER),
    "ec-import": lambda k: k.store.ec_import_scalar(Curve.P384, k.scalar, OWNER),
    "rsa-private": lambda k: k.store.rsa_private(k.rsa, b"\x01" * 256),
    "rsa-pairwise": lambda k: k.store.rsa_pairwise_test(k.rsa, PairwiseTest.SIGN),
    "credential-channel": lambda k: k.store.credential_channel(k.ec, k.point, bytes(32), OWNER),
    "mask": lambda k: k.store.mask(k.secret, k.masking, b"", IV, MASKED_BYTES),
    "unmask": unmask,
    "verify-masked": lambda k: k.store.verify_masked(k.masking, k.blob),
    "seal": lambda k: k.store.seal(k.secret, k.secret, b""),
    "unseal": lambda k: k.store.unseal(k.sealed, k.secret, b"", OWNER),
    "publish": publish,
}


@pytest.fixture
def keys(seams: Seams | None) -> Iterator[Keys | None]:
    if seams is None:
        yield None
        return
    keys = Keys()
    yield keys
    keys.close()


def test_litter_is_seen(seams: Seams, keys: Keys) -> None:
    """Reading a public key takes hold of it, and touches nothing secret."""
    seams.litter_stack()
    keys.store.ec_public(keys.ec)
    assert seams.litter_left() > 256


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_leaves_no_litter(seams: Seams, keys: Keys, name: str) -> None:
    seams.litter_stack()
    OPERATIONS[name](keys)
    assert seams.litter_left() == 0


def carry_out(rig: AesRig, sqe: np.ndarray) -> None:
    """A short command is carried out by the thread that rings for it."""
    queue = rig.queues[FIRST_AES_QUEUE_ID]
    queue.submit([sqe.tobytes()])
    [completion] = queue.reap(1)
    assert completion.status == (AesStatus.SUCCESS, 0)


def test_litter_of_a_command_is_seen(seams: Seams, aes_rig: AesRig) -> None:
    """What needs no more than registers does not pay for wiping the stack."""
    seams.litter_stack()
    carry_out(aes_rig, gcm_job(aes_rig.memory, GCM_ID, bytes(12), bytes(IN_REGISTERS)).sqe)
    assert seams.litter_left() > 256


@pytest.mark.parametrize("size", [256, 4096])
def test_a_gcm_command_leaves_no_litter(seams: Seams, aes_rig: AesRig, size: int) -> None:
    """Powers of the GHASH key."""
    seams.litter_stack()
    carry_out(aes_rig, gcm_job(aes_rig.memory, GCM_ID, bytes(12), bytes(size)).sqe)
    assert seams.litter_left() == 0


@pytest.mark.parametrize("decrypt", [False, True])
@pytest.mark.parametrize("cuts", [(), (2000,)], ids=["in one piece", "in pieces"])
@pytest.mark.parametrize("size", [16, 1024, 4096])
def test_an_xts_command_leaves_no_litter(
    seams: Seams, aes_rig: AesRig, size: int, cuts: tuple[int, ...], decrypt: bool
) -> None:
    """Masks of a data unit."""
    sqe, _ = xts_job(aes_rig.memory, (XTS_ID_1, XTS_ID_2), IV, bytes(size), decrypt=decrypt, src_cuts=cuts)
    seams.litter_stack()
    carry_out(aes_rig, sqe)
    assert seams.litter_left() == 0
