# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The end of a `with` block closes, however it ends."""

from __future__ import annotations

import pytest

from ihsm.closing import Closing


class Door(Closing):
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_the_context_is_the_object_and_its_end_closes_it() -> None:
    door = Door()
    with door as entered:
        assert entered is door
        assert not door.closed
    assert door.closed == 1


def test_an_error_closes_and_goes_on() -> None:
    door = Door()
    with pytest.raises(KeyError), door:
        raise KeyError
    assert door.closed == 1


def test_what_cannot_close_cannot_be_made() -> None:
    class Wall(Closing):
        pass

    with pytest.raises(TypeError, match=r"abstract method '?close"):
        Wall()  # type: ignore[abstract]
