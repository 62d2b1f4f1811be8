# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every documented error condition of the key and crypto operations, alone and with the check that comes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ihsm_abi.ddi import DdiStatus, DeviceKind
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support import key_subjects, new_key_subjects
from support.faults import Case, Subject, cases, make, play
from support.hsm import Stage
from support.keyring import KeyStage
from support.waiting import until

SUBJECTS = (*key_subjects.SUBJECTS, *new_key_subjects.SUBJECTS)
KINDS = {"virtual": DeviceKind.Virtual, "physical": DeviceKind.Physical}


def selected(subject: Subject, kind: str) -> Iterator[Case]:
    """Every fault alone; of the pairs, one for each pair of rows."""
    seen = set()
    for case in cases(subject, kind):
        pair = tuple(fault.row for fault in case.faults)
        if len(pair) == 1 or pair not in seen:
            seen.add(pair)
            yield case


CASES = [
    pytest.param(kind, case, id=f"{kind}-{case.id}") for kind in KINDS for s in SUBJECTS for case in selected(s, kind)
]
NEW_KEYS = [case for subject in new_key_subjects.SUBJECTS for case in selected(subject, "virtual")]


class Stages:
    """One device at a time, since the key store is one per process; kept while its kind is asked for."""

    def __init__(self) -> None:
        self._stage: KeyStage | None = None

    def of(self, kind: DeviceKind) -> KeyStage:
        if self._stage is None or self._stage.device.options.kind is not kind:
            self.close()
            self._stage = KeyStage(HsmDevice(DeviceOptions(kind=kind)))
        return self._stage

    def close(self) -> None:
        if self._stage is not None:
            self._stage.device.close()
            self._stage = None


@pytest.fixture(scope="module")
def stages() -> Iterator[Stages]:
    stages = Stages()
    yield stages
    stages.close()


@pytest.fixture
def stage(request: pytest.FixtureRequest, stages: Stages) -> KeyStage:
    return stages.of(KINDS[request.param])


@pytest.fixture(autouse=True)
def _not_approved(stage: Stage) -> None:
    stage.device.fips_approved = False


@pytest.mark.parametrize(("stage", "case"), CASES, indirect=["stage"])
def test_condition(stage: Stage, case: Case, covers: Callable[..., None]) -> None:
    outcome = play(case, stage)
    assert outcome.reply.status == DdiStatus[case.row.status]
    if len(case.faults) == 1:
        covers(case.row.name)


@pytest.mark.parametrize("stage", KINDS, indirect=True)
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_good_command(stage: Stage, subject: Subject) -> None:
    """What the faults are put into succeeds without them."""
    scene = stage.clean()
    draft = make(subject, scene, subject.arrange(scene))
    assert scene.send(draft.encode(), draft.queue_kind, draft.queue_id).status == DdiStatus.Success


@pytest.mark.parametrize("stage", ["virtual"], indirect=True)
@pytest.mark.parametrize("case", [case for case in NEW_KEYS if len(case.faults) == 1], ids=lambda case: case.id)
def test_refused_key_leaves_nothing_behind(stage: Stage, case: Case) -> None:
    """Vault and key store are as before a refused creation."""
    outcome = play(case, stage)
    scene, store = outcome.draft.scene, stage.device.store
    # A key that is made meanwhile would count.
    until(lambda: stage.device.unwrapping_keys.full, "a full stock of unwrapping keys", every_s=0.01)
    usage, keys = scene.state.vault.usage(), store.statistics().keys
    again = scene.send(outcome.draft.message, outcome.draft.queue_kind, outcome.draft.queue_id)
    assert again.status == DdiStatus[case.row.status]
    assert (scene.state.vault.usage(), store.statistics().keys) == (usage, keys)
