# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The time of day jumps: nothing that a device does depends on it, nor how a driver is judged by its trace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from ihsm.control import ControlClient
from ihsm.trace.live import TraceReader
from ihsm.trace.records import Mark, Record, decode
from ihsm.trace.rules import check
from support.hosts import client
from support.process import serve
from support.programs import jumping_clock
from support.soak.victim import Victim
from support.waiting import HANG_S

HALF_A_JUMP_NS: Final = 86_400 * 10**9
"""Far more than the test takes: `jumping_clock.c` goes two days forth and back."""
LOOK: Final = "import time; first = time.time_ns(); print(abs(time.time_ns() - first))"


def test_a_clock_that_jumps_with_every_look(socket_folder: Path) -> None:
    """Signatures, ciphertexts and certificates are right, no driver is told to have waited for days."""
    environment = os.environ | {"LD_PRELOAD": os.fspath(jumping_clock())}
    jump = subprocess.run([sys.executable, "-c", LOOK], env=environment, capture_output=True, check=True).stdout
    assert int(jump) > HALF_A_JUMP_NS
    with serve("--socket", str(socket_folder / "a.sock"), environment=environment) as server:
        (path,) = server.paths
        with TraceReader(path, timeout_s=HANG_S) as reader, ControlClient(path, HANG_S) as control:
            with client(path) as partition:
                assert partition.certificate_chain().der
            assert control.mark("end")
            records: list[Record] = []
            while not any(isinstance(record, Mark) for record in records):  # the client's end may come behind it
                records += map(decode, reader.read(HANG_S))
        times = [record.time_ns for record in records]
        assert max(times) - min(times) < HALF_A_JUMP_NS
        assert check(records) == []
        with Victim(path) as victim:
            victim.work()
            assert victim.settle().errors == []
        assert server.stop() == 0
        assert server.errors == []
