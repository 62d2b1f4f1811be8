# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The recorded vendor driver against our device, over both hosts of the engine."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.bus.function import PciFunction
from ihsm.testing import faulty_device
from ihsm.trace.records import Entry
from ihsm.trace.replay import Replay, function_level_reset, resources_for
from support.descriptors import open_descriptors
from support.devices import HOSTS, open_device
from support.process import serve
from support.replay_checks import Checks
from support.traces import BINDS, COMMANDS, load, records_of
from support.waiting import HANG_S


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
@pytest.mark.parametrize(
    ("trace", "resources"),
    [(BINDS, 2), (COMMANDS, 1)],
    ids=lambda value: value.stem if isinstance(value, Path) else str(value),
)
def test_every_step_is_answered(trace: Path, resources: int, host: str) -> None:
    records = records_of(load(trace))
    assert resources_for(records) == resources
    checks = Checks(resources)
    with (
        target(host, resources) as device,
        Replay(
            device.function,
            device.map_dma,
            records,
            audience=checks,
            level_reset=device.level_reset,
            timeout_s=HANG_S,
        ) as replay,
    ):
        answered = replay.run()
    recorded = Counter(record.queue for _, record in records if isinstance(record, Entry))
    assert Counter(queue_id for queue_id, _, _ in answered) == recorded


def test_a_replay_for_a_function_without_vectors_gives_its_memory_back() -> None:
    with (
        faulty_device({"action": "wrong-vectors", "vectors": 0}) as device,
        VfioUserFunction(device.socket_path) as function,
    ):
        files = open_descriptors()
        replay = Replay(function, function.map_dma, records_of(load(COMMANDS)))
        replay.close()
        replay.close()
        del replay  # the last view of the memory
        assert function.vectors == 0
        assert open_descriptors() == files
