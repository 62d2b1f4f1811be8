# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The recorded vendor driver against our device, over both hosts of the engine."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from support.devices import HOSTS, open_device
from support.replay import Replay, load

DATA: Final = Path(__file__).parents[1] / "data"
PROBE_REMOVE: Final = "linux-driver-3.2.0-probe-remove-probe-remove.jsonl"
COMMANDS: Final = "linux-driver-3.2.0-commands.jsonl"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("trace", "resources"), [(PROBE_REMOVE, 2), (COMMANDS, 1)])
def test_every_step_is_answered(trace: str, resources: int, host: str) -> None:
    events = load(DATA / trace)
    with (
        tempfile.TemporaryDirectory(prefix="ihsm-") as folder,
        open_device(host, Path(folder), resources=resources) as device,
    ):
        replay = Replay(device.function, device.map_dma, device.level_reset, events, resources)
        try:
            answered = replay.run()
        finally:
            replay.close()
    recorded = Counter(event["sqid"] for event in events if event["op"] == "sqe")
    assert Counter(queue_id for queue_id, _, _ in answered) == recorded
