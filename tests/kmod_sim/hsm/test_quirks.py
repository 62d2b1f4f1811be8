# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The table of quirks: each is somewhere in the driver, and only those that crash nothing are on."""

from __future__ import annotations

from pathlib import Path

import pytest

import ihsm_kmod.hsm
from ihsm_kmod.hsm.quirks import QUIRKS, Quirk, QuirkClass, Quirks


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.name)
def test_the_driver_and_a_test_know_each_quirk(quirk: Quirk) -> None:
    name = quirk.name
    sources = [path.read_text() for path in Path(ihsm_kmod.hsm.__path__[0]).glob("*.py")]
    assert any(f"quirks.{name}" in text for text in sources)
    tests = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    assert any(f'"{name}"' in text for text in tests), "no test turns it"


def test_names_are_unique() -> None:
    names = [quirk.name for quirk in QUIRKS]
    assert len(set(names)) == len(names)


def test_only_fatal_ones_are_off() -> None:
    quirks = Quirks()
    for quirk in QUIRKS:
        assert getattr(quirks, quirk.name) == (quirk.kind is not QuirkClass.FATAL)


def test_a_build_can_differ() -> None:
    quirks = Quirks({"null_queue": True, "minor_leaks_at_level_2": False})
    assert quirks.null_queue
    assert not quirks.minor_leaks_at_level_2


def test_unknown_names() -> None:
    with pytest.raises(KeyError, match="no quirk is called nonsense"):
        Quirks({"nonsense": True})
    with pytest.raises(AttributeError, match="no quirk is called nonsense"):
        Quirks().nonsense  # noqa: B018
