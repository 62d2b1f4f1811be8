# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Hosts and containers that have not all that a sandbox is made of: the device works, and says what is weaker."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.driver import Controller
from support.kmod_run import FORBIDDING
from support.process import SERVE, serve
from support.waiting import HANG_S


@pytest.mark.parametrize(
    ("forbidden", "field", "value", "weaker"),
    [
        ("landlock", "landlock", None, "files: the device may open what its user may"),
        ("filters", "system_calls", "all", "system calls: the device may make all of them"),
        ("page-faults", "system_calls", "filtered", "memory: holes of clients' files may be filled without limit"),
    ],
)
def test_what_is_missing_is_said(
    socket_folder: Path, forbidden: str, field: str, value: str | None, weaker: str
) -> None:
    with serve("--socket", str(socket_folder / "s"), program=(*FORBIDDING, forbidden, *SERVE)) as server:
        shown = server.status()["sandbox"]
        assert shown[field] == value
        assert sum(line.startswith(weaker) for line in shown["weaker"]) == 1
        with Controller(VfioUserFunction(server.paths[0], timeout_s=HANG_S)) as controller:
            Partition(controller).api_revisions()
        assert server.stop() == 0
    assert sum(weaker in line for line in server.errors) == 1, "the log says it too, once"
