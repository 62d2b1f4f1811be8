# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings that are played against a device, which is in this process.

Inputs are those of the harness of traces. A recording cannot be played, or the device does not answer as it should, or
all is well; nothing else happens, and the device serves the next recording.
"""

import functools
import sys
from pathlib import Path

from harness import failures_are_findings, instrumented, main

with instrumented():
    from traces import MAX_RECORDS, records_of

    from ihsm.errors import BusError, ReplayError, TraceError
    from ihsm.trace.replay import Replay

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from support.loopback import LoopbackFunction
from support.modules import ReversingModule

TIMEOUT_S = 0.003
"""What is recorded as answered, and cannot be, is waited for."""


def one_input(data: bytes) -> None:
    """One recording."""
    function = the_function()
    try:
        records = records_of(data)[:MAX_RECORDS]
    except TraceError:
        return
    mapped: list[tuple[int, int]] = []

    def map_dma(descriptor: int, offset: int, iova: int, size: int) -> None:
        function.map_dma(descriptor, offset, iova, size)
        mapped.append((iova, size))

    try:
        with Replay(function, map_dma, records, level_reset=function.reset, timeout_s=TIMEOUT_S) as replay:
            replay.run()
    except (ReplayError, BusError) as error:
        assert "\n" not in str(error)  # noqa: PT017  (no test of pytest)
    function.reset()
    for iova, size in mapped:
        function.host.unmap(iova, size)


@functools.cache
def the_function() -> LoopbackFunction:
    """That of this process."""
    return LoopbackFunction(ReversingModule())


if __name__ == "__main__":
    failures_are_findings()
    main(one_input)
