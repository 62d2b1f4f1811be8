# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm bench kmod`, with runs too short for their figures to mean anything."""

from __future__ import annotations

import pytest

from ihsm.bench import kmod, sample
from ihsm.bench.setups import Place
from ihsm.bench.targets import TARGETS


def test_it_gives_every_target_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmod, "PAIRS", 1)
    monkeypatch.setattr(sample, "PAIR_SECONDS", 0.01)
    advanced: list[str] = []
    records = [result.to_json() for result in kmod.kmod(Place(), advanced.append)]
    by_id = {record["id"]: record for record in records}
    targets = [target for target in TARGETS if target.id.startswith("kmod-")]
    assert by_id.keys() == {target.id for target in targets}
    assert all(target.met(by_id[target.id]) is not None for target in targets)
    assert advanced == ["kmod-preload", "kmod-preload-way"]
    for record in by_id.values():
        assert record.get("descriptors_left", 0) <= 0
