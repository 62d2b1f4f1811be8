# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The recorded vendor driver against our device, over both hosts of the engine."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.bus.function import PciFunction
from support.devices import HOSTS, function_level_reset, open_device
from support.process import serve
from support.replay import Replay, load

DATA: Final = Path(__file__).parents[1] / "data"
PROBE_REMOVE: Final = "linux-driver-3.2.0-probe-remove-probe-remove.jsonl"
COMMANDS: Final = "linux-driver-3.2.0-commands.jsonl"


class Target(NamedTuple):
    """What a replay needs of a device."""

    function: PciFunction
    map_dma: Callable[[int, int, int, int], None]
    level_reset: Callable[[], None]


@contextmanager
def target(host: str, resources: int) -> Iterator[Target]:
    """A device of the tests over one of the hosts, or the whole device as a process."""
    with tempfile.TemporaryDirectory(prefix="ihsm-") as folder:
        if host != "process":
            with open_device(host, Path(folder), resources=resources) as device:
                yield Target(device.function, device.map_dma, device.level_reset)
            return
        with serve("--socket", f"{folder}/f.sock", "--resources", str(resources)) as server:
            with VfioUserFunction(server.paths[0]) as function:
                yield Target(function, function.map_dma, lambda: function_level_reset(function))
            assert server.stop() == 0


@pytest.mark.parametrize("host", [*HOSTS, "process"])
@pytest.mark.parametrize(("trace", "resources"), [(PROBE_REMOVE, 2), (COMMANDS, 1)])
def test_every_step_is_answered(trace: str, resources: int, host: str) -> None:
    events = load(DATA / trace)
    with target(host, resources) as device:
        replay = Replay(device.function, device.map_dma, device.level_reset, events, resources)
        try:
            answered = replay.run()
        finally:
            replay.close()
    recorded = Counter(event["sqid"] for event in events if event["op"] == "sqe")
    assert Counter(queue_id for queue_id, _, _ in answered) == recorded
