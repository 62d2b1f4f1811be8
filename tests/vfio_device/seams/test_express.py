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
from support.seams import HAS_SEAMS, Aside, Seams
from support.waiting import stays, until

ENDS: dict[str, tuple[Callable[[Session, Key], object], DdiStatus]] = {
    "key": (lambda session, key: session.delete_key(key), DdiStatus.KeyNotFound),
    "session": (lambda session, key: session.close(), DdiStatus.SessionNotFound),
}


@pytest.fixture(scope="module")
def provisioned() -> Iterator[ExpressRig | None]:
    """What takes long to make, for all tests here; None where they run elsewhere."""
    if not HAS_SEAMS:
        yield None
        return
    with ExpressRig() as rig:
        yield rig


@pytest.fixture
def express(seams: Seams | None, provisioned: ExpressRig | None) -> Iterator[ExpressRig | None]:
    """A device without sessions and keys."""
    if seams is None or provisioned is None:
        yield None
        return
    yield provisioned
    seams.reset()
    provisioned.scene.clean()
    provisioned.scene.provision()


@pytest.mark.parametrize("ended", ENDS)
def test_what_went_before_the_answer_is_held_gives_none(seams: Seams, express: ExpressRig, ended: str) -> None:
    end, refusal = ENDS[ended]
    session = express.scene.open_session()
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    taken = express.taken
    seams.close("EXPRESS_RUN")
    places = express.begin(session.session_id, key, 1)
    seams.wait_standing("EXPRESS_RUN")
    end(session, key)
    assert not express.completions(places)
    seams.open("EXPRESS_RUN")
    until(lambda: express.completions(places), "the answer")
    assert express.status(express.completions(places)[0]) == refusal
    assert express.taken == taken


@pytest.mark.parametrize("ended", ENDS)
def test_the_end_waits_for_an_answer_that_is_held(seams: Seams, express: ExpressRig, ended: str) -> None:
    end, _ = ENDS[ended]
    session = express.scene.open_session()
    key = session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
    taken = express.taken
    seams.close("EXPRESS_HELD")
    places = express.begin(session.session_id, key, 1)
    seams.wait_standing("EXPRESS_HELD")
    ending = Aside(end, session, key)
    assert stays(lambda: not ending.done)
    seams.open("EXPRESS_HELD")
    ending.result()
    assert express.completions(places), "the answer came before the end"
    assert express.status(express.completions(places)[0]) == DdiStatus.Success
    until(lambda: express.taken == taken + 1, "the count, which goes up behind the answer")


def test_a_successor_under_the_same_number_is_not_taken_for_it(seams: Seams, express: ExpressRig) -> None:
    session = express.scene.open_session()
    request = KeyRequest(KeyUsage.SignVerify)
    key = session.generate_ecc_key(EccCurve.P256, request)
    taken = express.taken
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
    assert express.taken == taken
