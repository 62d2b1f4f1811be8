# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the express lane sees of a partition: nothing twice, nothing that it has no place for (native/express)."""

from __future__ import annotations

import pytest

from ihsm_abi.ddi import API_REV
from ihsm_abi.ddi.limits import MAX_SESSIONS
from ihsm_device.hsm.partition.published import Published


@pytest.fixture
def published() -> Published:
    return Published(little_endian=True, fips=False)


def test_a_session_is_published_once_until_it_is_withdrawn(published: Published) -> None:
    published.session(3, API_REV)
    with pytest.raises(ValueError, match="EEXIST"):
        published.session(3, API_REV)
    published.withdraw_session(3)
    published.session(3, API_REV)


def test_there_are_places_for_all_sessions_and_for_no_more(published: Published) -> None:
    for session_id in range(MAX_SESSIONS):
        published.session(session_id, API_REV)
    with pytest.raises(ValueError, match="EINVAL"):
        published.session(MAX_SESSIONS, API_REV)
    published.withdraw_session(MAX_SESSIONS)
