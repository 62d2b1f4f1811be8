# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C in the middle of a run."""

from __future__ import annotations

import signal
import subprocess
import sys

from support.waiting import HANG_S

RUN = """
import sys, time
from ihsm.conformance.catalogue import all_scenarios
from ihsm.conformance.run import RunOptions, run

class Program:  # never ends
    def results(self): return None
    def ended(self): return 0
    def kill(self, number): return True

class Rig:
    crashed = lambda self: ""
    log = lambda self: []
    resources = lambda self: {}
    offers = lambda self, op: True
    now_s = lambda self: time.monotonic()
    begins = lambda self, limit: None
    close = lambda self: None

    def __init__(self, socket_path): self.socket_path = socket_path

    def start(self, what):
        print("begun", flush=True)
        return Program()

    def pass_time(self, settle_s): time.sleep(0.01)

class Driver:
    parallel = 2
    variants = ({"kind": "idle"},)
    names = lambda self: ()
    properties = lambda self: {}
    rig = lambda self, variant, socket_path: Rig(socket_path)

try:
    run(Driver(), all_scenarios(), RunOptions())
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_an_interrupted_run_ends_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(HANG_S) == 130
        finally:
            process.kill()
