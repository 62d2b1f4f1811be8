# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Keys deleted, sessions closed, functions reset while the express lane works with them; also run under sanitizers.

Once the end of a key or a session has been answered, no answer comes that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.session import Session
from ihsm_abi.ddi import DdiStatus, EccCurve, KeyUsage
from ihsm_abi.hsm_queue import ControlKind, HsmStatus
from ihsm_device.hsm.command import HsmCommand
from support.express_rig import BURST, ExpressRig
from support.waiting import until

ROUNDS = 8
SIGN = KeyRequest(KeyUsage.SignVerify)
End = Callable[[ExpressRig, Session, Key], object]


@pytest.fixture
def rig() -> Iterator[ExpressRig]:
    with ExpressRig() as rig:
        yield rig


def flush(rig: ExpressRig, session: Session, key: Key) -> None:
    rig.module.flush(HsmCommand(b"", ControlKind.CLOSE, True, session.session_id))


ENDS: dict[str, tuple[End, set[DdiStatus | HsmStatus]]] = {
    "delete": (lambda rig, session, key: session.delete_key(key), {DdiStatus.KeyNotFound}),
    "close": (lambda rig, session, key: session.close(), {DdiStatus.SessionNotFound}),
    "flush": (flush, {DdiStatus.SessionNotFound}),
    "nssr": (lambda rig, session, key: rig.module.nssr(), {DdiStatus.SessionNeedsRenegotiation}),
    "disable": (lambda rig, session, key: rig.module.disable(), {DdiStatus.SessionNeedsRenegotiation}),
    "client-lost": (lambda rig, session, key: rig.module.client_lost(), {DdiStatus.SessionNotFound}),
    "partition-reset": (lambda rig, session, key: rig.module.partition_reset(), {DdiStatus.SessionNotFound}),
    "error-state": (lambda rig, session, key: rig.device.enter_error_state("a test"), {HsmStatus.INTERNAL_ERROR}),
}
FINAL = {"error-state"}
"""After which there is no second round."""
RESETS = {"nssr", "disable", "client-lost", "partition-reset"}


@pytest.mark.parametrize("name", ENDS)
def test_nothing_follows_the_end(rig: ExpressRig, name: str) -> None:
    end, refusals = ENDS[name]
    for _ in range(1 if name in FINAL else ROUNDS):
        session = rig.scene.open_session()
        key = session.generate_ecc_key(EccCurve.P384, SIGN)
        places = rig.begin(session.session_id, key)
        until(lambda places=places: rig.completions(places), "the first answer", every_s=0)  # type: ignore[misc]
        end(rig, session, key)
        before = len(rig.completions(places))
        until(lambda places=places: len(rig.completions(places)) == BURST, "all answers")  # type: ignore[misc]
        found = [rig.status(completion) for completion in rig.completions(places)]
        # A command that had left the lane before the end may have met it in the middle.
        late = refusals | {HsmStatus.INTERNAL_ERROR}
        assert all(status in late for status in found[before:]), (before, found)
        assert all(status in late | {DdiStatus.Success} for status in found)
        if name == "delete":
            session.close()
        if name in RESETS:
            rig.scene.clean()
            rig.scene.provision()


def test_a_number_that_another_key_has_got(rig: ExpressRig) -> None:
    """Keys come and go under one number while others sign with it: each signature is of a key that was there."""
    session = rig.scene.open_session()
    for _ in range(ROUNDS):
        key = session.generate_ecc_key(EccCurve.P256, SIGN)
        places = rig.begin(session.session_id, key)
        session.delete_key(key)
        before = len(rig.completions(places))
        other = session.generate_aes_key(1, KeyRequest(KeyUsage.EncryptDecrypt))  # type: ignore[arg-type]
        assert other.key_id == key.key_id
        until(lambda places=places: len(rig.completions(places)) == BURST, "all answers")  # type: ignore[misc]
        found = [rig.status(completion) for completion in rig.completions(places)]
        late = {DdiStatus.KeyNotFound, DdiStatus.InvalidKeyType}
        assert all(status in late for status in found[before:]), (before, found)
        session.delete_key(other)


def test_the_lane_does_the_work(rig: ExpressRig) -> None:
    session = rig.scene.open_session()
    key = session.generate_ecc_key(EccCurve.P256, SIGN)
    before = rig.taken
    places = rig.begin(session.session_id, key)
    until(lambda: len(rig.completions(places)) == BURST, "all answers")
    assert {rig.status(completion) for completion in rig.completions(places)} == {DdiStatus.Success}
    until(lambda: rig.taken == before + BURST, "the count")
