# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Conditions of the life-cycle operations: each alone, and with the nearest later and earlier one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.conditions import TABLE
from ihsm_abi.ddi import DdiStatus, DeviceKind, decode_response_header
from ihsm_abi.hsm_queue import ControlKind
from support.faults import Case, Outcome, Subject, cases, make, play
from support.hsm import Stage
from support.lifecycle_subjects import SUBJECTS

KINDS = (DeviceKind.Virtual, DeviceKind.Physical)
CASES = [
    pytest.param(kind, case, id=f"{kind.name.lower()}-{case.id}")
    for kind in KINDS
    for subject in SUBJECTS
    for case in cases(subject, kind.name.lower())
]
"""Conditions that exist with a kind only are tried with that kind only."""
EFFECTS = {
    f"{operation}/{entry['id']}": entry.get("effect", "")
    for operation, entries in TABLE["operations"].items()
    for entry in entries
}
IN_SESSION = (ControlKind.CLOSE, ControlKind.IN_SESSION)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_the_good_command_succeeds(stage: Stage, subject: Subject) -> None:
    scene = stage.clean()
    draft = make(subject, scene, subject.arrange(scene))
    reply = scene.send(draft.encode(), draft.queue_kind, draft.queue_id)
    assert reply.status in (DdiStatus.Success, DdiStatus.SealedBk3NotPresent)


@pytest.mark.parametrize(("stage", "case"), CASES, indirect=["stage"])
def test_condition(stage: Stage, covers: Callable[..., None], case: Case) -> None:
    outcome = play(case, stage)
    expect_refusal(case, outcome)
    if len(case.faults) == 1:
        covers(case.row.name)


def expect_refusal(case: Case, outcome: Outcome) -> None:
    """The row's status, in an error response of the right shape, with the row's effect on the nonce."""
    draft, reply = outcome.draft, outcome.reply
    header, offset = decode_response_header(reply.message)
    assert header.status.name == case.row.status
    assert (header.op, header.rev, header.sess_id, header.fips_approved) == (
        draft.op,
        draft.rev,
        draft.header_id,
        False,
    )
    assert reply.message[offset:] == b"\x18\x01\xa0"
    flags = reply.completion.flags
    assert (flags.kind, flags.id_valid) == (draft.queue_kind, draft.queue_kind in IN_SESSION)
    assert not flags.short_app_id_valid
    assert not flags.session_closed
    assert outcome.nonce_replaced == EFFECTS[case.row.name].startswith("nonce replaced")
