# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The express lane and who withdraws what it works with, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ihsm.ddi.keys import Key, KeyRequest
from ihsm.ddi.session import Session
from ihsm_abi.ddi import DdiStatus, EccCurve, KeyUsage
from support.express_rig import ExpressRig
from support.seams import Aside, Seams
from support.waiting import stays, until

ENDS: dict[str, tuple[Callable[[Session, Key], object], DdiStatus]] = {
    "key": (lambda session, key: session.delete_key(key), DdiStatus.KeyNotFound),
    "session": (lambda session, key: session.close(), DdiStatus.SessionNotFound),
}


@pytest.fixture
def express(seams: Seams | None) -> Iterator[ExpressRig | None]:
    if seams is None:
        yield None
        return
    with ExpressRig() as rig:
        yield rig
        seams.reset()


@pytest.mark.parametrize("ended", ENDS)
def test_what_went_before_the_answer_is_held_gives_none(seams: Seams, express: ExpressRig, ended: str) -> None:
    end, refusal = ENDS[ended]
    session = express.scene.open_session()
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    seams.close("EXPRESS_RUN")
    places = express.begin(session.session_id, key, 1)
    seams.wait_standing("EXPRESS_RUN")
    end(session, key)
    assert not express.completions(places)
    seams.open("EXPRESS_RUN")
    until(lambda: express.completions(places), "the answer")
    assert express.status(express.completions(places)[0]) == refusal
    assert express.taken == 0


@pytest.mark.parametrize("ended", ENDS)
def test_the_end_waits_for_an_answer_that_is_held(seams: Seams, express: ExpressRig, ended: str) -> None:
    end, _ = ENDS[ended]
    session = express.scene.open_session()
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    seams.close("EXPRESS_HELD")
    places = express.begin(session.session_id, key, 1)
    seams.wait_standing("EXPRESS_HELD")
    ending = Aside(end, session, key)
    stays(lambda: not ending.done)
    seams.open("EXPRESS_HELD")
    ending.result()
    assert express.status(express.completions(places)[0]) == DdiStatus.Success


def test_a_successor_under_the_same_number_is_not_taken_for_it(seams: Seams, express: ExpressRig) -> None:
    session = express.scene.open_session()
    request = KeyRequest(KeyUsage.SignVerify)
    key = session.generate_ecc_key(EccCurve.P256, request)
    seams.close("EXPRESS_RUN")
    places = express.begin(session.session_id, key, 1)
    seams.wait_standing("EXPRESS_RUN")
    session.delete_key(key)
    again = session.generate_ecc_key(EccCurve.P256, request)
    assert again.key_id == key.key_id
    seams.open("EXPRESS_RUN")
    until(lambda: express.completions(places), "the answer")
    # Python has carried it out anew, with the key that has the number now.
    assert express.status(express.completions(places)[0]) == DdiStatus.Success
    assert express.taken == 0
