# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A requester that reaches its responder through the mailbox of a function."""

from __future__ import annotations

from ihsm.bus.doe import Mailbox
from ihsm_abi.doe import OBJECT_SECURED_SPDM, OBJECT_SPDM, PCI_SIG
from support.spdm_requester import Requester
from support.waiting import HANG_S


def requester_of(mailbox: Mailbox) -> Requester:
    """One that knows nothing yet."""

    def send(message: bytes) -> bytes:
        return mailbox.exchange(PCI_SIG, OBJECT_SPDM, message, HANG_S)

    def send_record(record: bytes) -> bytes:
        answer = mailbox.exchange(PCI_SIG, OBJECT_SECURED_SPDM, record, HANG_S)
        return answer[: 6 + int.from_bytes(answer[4:6], "little")]

    return Requester(send, send_record, padding=3)


def attest(requester: Requester) -> None:
    """Everything once, and a session that stays open."""
    requester.request = requester.response = None
    requester.negotiate()
    requester.digests()
    requester.read_chain()
    requester.challenge(1)
    requester.blocks()
    requester.open_session(1)
    requester.blocks()
