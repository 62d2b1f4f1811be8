# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device that has none left of what a command needs (spec 01 §14.4, 02 §B.7, 04 §11)."""

from __future__ import annotations

import errno

import pytest

from ihsm.ddi import KeyRequest, Session
from ihsm_abi.ddi import AesKeySize, DdiStatus, KeyUsage
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_kmod.kernel.errors import Errno
from support.claims import Covers
from support.flow import Flow
from support.hsm import refused
from support.hsm_program import CREDENTIAL, provisioned

ENCRYPT = KeyRequest(KeyUsage.EncryptDecrypt)


def test_no_session_is_left(flow: Flow, covers: Covers) -> None:
    client = provisioned(flow.caller)
    hit = flow.faults.add("exhaust-resource", resource="sessions", count=1)
    assert refused(lambda: client.open_session(CREDENTIAL)) == DdiStatus.VaultSessionLimitReached
    assert hit.hits == 1
    client.open_session(CREDENTIAL).close()
    flow.works()
    covers("fault/exhaust-resource")


@pytest.mark.parametrize(
    ("resource", "size", "status"),
    [
        ("keys", AesKeySize.Aes256, DdiStatus.NotEnoughSpace),
        ("bulk-keys", AesKeySize.AesGcmBulk256Unapproved, DdiStatus.ReachedMaxAesBulkKeys),
    ],
)
def test_no_room_for_a_key(flow: Flow, resource: str, size: AesKeySize, status: DdiStatus) -> None:
    def make(session: Session) -> object:
        return session.generate_aes_key(size, ENCRYPT)

    session = provisioned(flow.caller).open_session(CREDENTIAL)
    flow.faults.add("exhaust-resource", resource=resource, count=1)
    assert refused(lambda: make(session)) == status
    make(session)
    flow.works()


def test_no_buffer_for_a_request(flow: Flow) -> None:
    flow.faults.add("exhaust-resource", resource="requests", count=1)
    answer = flow.ask()
    assert (answer.error, answer.structure["status"]) == (0, HsmStatus.INTERNAL_ERROR)
    assert flow.admin() == []
    flow.works()


@pytest.mark.parametrize("nth", range(1, 7))
def test_no_queue_is_left(flow: Flow, nth: int) -> None:
    """Any of the three pairs that a bind creates: it gives back what it has, and the next one succeeds."""
    flow.driver.unbind()
    hit = flow.faults.add("exhaust-resource", resource="queues", nth=nth, count=1)
    with pytest.raises(Errno) as caught:
        flow.driver.bind()
    assert caught.value.errno == errno.EFAULT
    assert hit.hits == 1
    assert flow.driver.machine.kernel.vfs.listdir("/dev") == []
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.__dict__.pop("caller", None)
    flow.works()
